"""Answer the requests of one connection, for as long as the fetcher keeps it open."""

import contextlib
import os
import select
import syslog
import time
from typing import Optional

from walbasin.gate import barman_archive, barman_command, barman_config, client
from walbasin.gate.authorized_key import AuthorizedKey
from walbasin.gate.barman_archive import ArchiveMissing
from walbasin.gate.barman_config import UnknownFolders
from walbasin.wal import compression, getwal, protocol, segment
from walbasin.wal.protocol import Opening

STDIN = 0
# Seconds without a request. A fetcher asks, or ends the connection, long before that.
IDLE_LIMIT = 300
# Bytes that are read at a time, and that the kernel sends at a time.
CHUNK = 256 * 1024
PIECE = 4 << 20


class Server:
    """Answer the requests of one connection, in their order."""

    def __init__(self, opening: Opening, key: AuthorizedKey) -> None:
        self.opening = opening
        self.key = key
        self.folders: Optional[barman_archive.Folders] = None
        # What the connection has come to, for the auth log.
        self.files = self.sent_bytes = self.absent = self.errors = self.refused = 0
        self._address = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
        try:
            config = barman_config.read_config(opening.config, opening.server)
            self._log = barman_archive.open_log(config)
            self.folders = barman_archive.find_folders(config, opening.server)
        except UnknownFolders as reason:
            syslog.syslog(syslog.LOG_WARNING, f"{opening.server}: {reason}; serving through barman get-wal, slowly")

    def run(self) -> None:
        """Serve until the fetcher ends, or asks for nothing for IDLE_LIMIT seconds.

        Ends too, without a word to whoever holds the key, when the key is let in no
        more: an honest fetcher connects anew, with its new key. Raises OSError when the
        connection is gone.
        """
        client.write(protocol.GREETING + b"\n")
        waiting = b""
        end = time.monotonic() + IDLE_LIMIT
        while select.select([STDIN], [], [], max(0.0, end - time.monotonic()))[0]:
            data = os.read(STDIN, 4096)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                if not self.key.is_authorized():
                    self._warn(f"the key fetches no WAL of server {self.opening.server!r} any more")
                    return
                self.handle_request(line)
                end = time.monotonic() + IDLE_LIMIT
            if len(waiting) > protocol.LONGEST_REQUEST:
                self._refuse("a request without an end")
                return

    def handle_request(self, line: bytes) -> None:
        """Send the file that a line asks for, or say why not.

        Raises OSError when the connection is gone.
        """
        try:
            name = protocol.parse_request(line)
        except getwal.Refused as refusal:
            self._refuse(str(refusal))
            return
        try:
            found = barman_archive.open_file(self.folders, name) if self.folders is not None else None
        except ArchiveMissing as reason:
            self._send_error(str(reason))
            return
        except OSError as error:
            self._send_error(f"{error.filename}: {error.strerror}")
            return
        if found is not None:
            self._send(name, *found)
        elif self.folders is not None:
            self._send_absent()
        else:
            self._send_from_barman(name)

    def log_summary(self) -> None:
        """Log what the connection has come to."""
        syslog.syslog(
            syslog.LOG_INFO,
            f"{self._address}: sent {self.files} files of server {self.opening.server}, {self.sent_bytes} bytes; "
            f"{self.absent} not in the archive, {self.errors} errors, {self.refused} requests refused",
        )

    def _refuse(self, reason: str) -> None:
        # The first one tells that somebody probes; the summary tells how often.
        if not self.refused:
            self._warn(reason[:200])
        self.refused += 1
        self._send_error_frame(reason)

    def _warn(self, text: str) -> None:
        syslog.syslog(syslog.LOG_WARNING, f"refused inside a connection from {self._address}: {text}")

    def _send(self, name: str, descriptor: int, length: int) -> None:
        try:
            stored = compression.detect_compression(os.pread(descriptor, compression.MAGIC_LENGTH, 0))
            if stored and stored not in self.opening.accepts:
                self._send_from_barman(name)
                return
            host = f" (SSH host: {self._address})" if self._address else ""
            self._log.info("Sending WAL '%s' for server '%s' to standard output%s", name, self.opening.server, host)
            if self.opening.compression and not stored and segment.is_segment_name(name):
                self._send_compressed(descriptor)
                return
            client.write(protocol.HEADER.pack(protocol.DATA, length))
            sent = 0
            while sent < length:
                with client.time_limit():
                    count = os.sendfile(client.STDOUT, descriptor, sent, min(length - sent, PIECE))
                if count == 0:  # it became shorter: the promise of the header cannot be kept
                    raise BrokenPipeError
                sent += count
                self.sent_bytes += count
            self._send_end()
        finally:
            os.close(descriptor)

    def _send_compressed(self, descriptor: int) -> None:
        compressor = compression.make_compressor(self.opening.compression)
        while True:
            data = os.read(descriptor, CHUNK)
            compressed = compressor.compress(data) if data else compressor.flush()
            if compressed:
                self._send_data(compressed)
            if not data:
                break
        self._send_end()

    def _send_from_barman(self, name: str) -> None:
        """Send what only Barman itself can find or decompress."""
        request = getwal.Request(self.opening.server, name, self.opening.config, compression=self.opening.compression)
        # In memory: the disk of a backup server is full one day, and then WAL must
        # still get out.
        with os.fdopen(os.memfd_create("stderr"), "w+b") as stderr:
            try:
                status = barman_command.run(request, self._send_data, client.STDOUT, stderr.fileno())
            except barman_command.BarmanError as error:
                self._send_error(str(error))
                return
            stderr.seek(0)
            output = stderr.read(protocol.LONGEST_ERROR).decode("utf-8", "replace")
        if status == 0:
            self._send_end()
        elif getwal.means_absent(name, status, output):
            self._send_absent()
        else:
            last = output.strip().splitlines()[-1:] or ["it ended without a word"]
            self._send_error(f"barman get-wal ended with status {status}: {last[0]}")

    def _send_data(self, data: bytes) -> None:
        self._send_frame(protocol.DATA, data)
        self.sent_bytes += len(data)

    def _send_end(self) -> None:
        self._send_frame(protocol.END)
        self.files += 1

    def _send_absent(self) -> None:
        self._send_frame(protocol.ABSENT)
        self.absent += 1

    def _send_error(self, text: str) -> None:
        self._send_error_frame(text)
        self.errors += 1

    def _send_error_frame(self, text: str) -> None:
        self._send_frame(protocol.ERROR, text.encode("utf-8", "replace")[: protocol.LONGEST_ERROR])

    def _send_frame(self, kind: bytes, content: bytes = b"") -> None:
        client.write(protocol.frame(kind, content))


def run(opening: Opening, key: AuthorizedKey) -> int:
    """Serve a connection. Return 0: its end is no error, however it comes."""
    server = Server(opening, key)
    with contextlib.suppress(OSError):  # the fetcher is gone
        server.run()
    server.log_summary()
    return 0
