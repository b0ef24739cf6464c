"""Answer the requests of one connection, for as long as the fetcher keeps it open."""

import contextlib
import os
import select
import syslog
import time
from typing import BinaryIO, Optional

from walbasin.gate import barman_archive, barman_command, barman_config, child, client, compressor, custom_filter
from walbasin.gate.authorized_key import AuthorizedKey
from walbasin.gate.barman_archive import ArchiveMissing
from walbasin.gate.barman_config import UnknownFolders
from walbasin.gate.connection_limit import Core
from walbasin.gate.custom_filter import FilterFailed
from walbasin.gate.link import WORTHWHILE, Link
from walbasin.wal import compression, getwal, protocol, segment
from walbasin.wal.protocol import Opening

STDIN = 0
# Seconds without a request. A fetcher asks, or ends the connection, long before that.
IDLE_LIMIT = 300
# Seconds without a request after which what sending needs is given back.
REST = 1.0
# Bytes that are read at a time.
CHUNK = 256 * 1024
# Bytes between two looks whether the rest should be compressed.
STEP = 1 << 20


class Server:
    """Answer the requests of one connection, in their order."""

    def __init__(self, opening: Opening, key: AuthorizedKey, owner: str = "") -> None:
        """owner: what the connections of this key have in common, and no others."""
        self.opening = opening
        self.key = key
        # The program that compresses, or an empty string.
        self._method = ""
        if opening.compression in (protocol.ZSTD, protocol.ADAPTIVE):
            self._method = compressor.choose_method(opening.accepts)
        self._link, self._core = Link(WORTHWHILE.get(self._method, 0.0)), Core(owner)
        self.folders: Optional[barman_archive.Folders] = None
        # How files are undone that are compressed in no known form.
        self._filter: Optional[custom_filter.Filter] = None
        # The fetcher knows that the archive has the file.
        self._is_found = False
        # What the connection has come to, for the auth log.
        self.files = self.sent_bytes = self.absent = self.errors = self.refused = 0
        self._address = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
        try:
            config = barman_config.read_config(opening.config, opening.server)
            self._log = barman_archive.open_log(config)
            self.folders = barman_archive.find_folders(config, opening.server)
            self._filter = custom_filter.find_filter(config, opening.server)
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
        while _wait_for_request(end):
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
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            start = os.pread(descriptor, compression.MAGIC_LENGTH, 0)
            stored = compression.detect_compression(start)
            is_known = stored in self.opening.accepts if stored else segment.may_be_plain(name, start)
            if is_known:
                self._send_file(name, file, length, stored)
                return
            self._is_found = False
            if self._send_undone(name, descriptor):
                return
        self._send_found()
        self._send_from_barman(name)

    def _send_undone(self, name: str, descriptor: int) -> bool:
        """Send what the custom filter makes of a file. Return False for Barman's."""
        if self._filter is None or not self._filter.is_for(descriptor):
            return False
        begin = time.monotonic()
        try:
            with custom_filter.undo(self._filter, name, descriptor, self._send_found) as plain:
                self._link.leave_out(time.monotonic() - begin)
                self._send_file(name, plain, os.fstat(plain.fileno()).st_size)
        except FilterFailed as reason:
            self._filter = None
            what = f"{self.opening.server}: {custom_filter.COMMAND} brings no WAL: {reason}"
            syslog.syslog(syslog.LOG_WARNING, f"{what}; serving through barman get-wal, slowly")
            return False
        except child.ProgramFailed as reason:
            self._send_error(str(reason))
        return True

    def _send_file(self, name: str, file: BinaryIO, length: int, stored: str = "") -> None:
        """Send a file of a known form. stored: its compression, empty for none."""
        host = f" (SSH host: {self._address})" if self._address else ""
        self._log.info("Sending WAL '%s' for server '%s' to standard output%s", name, self.opening.server, host)
        try:
            if stored or not segment.is_segment_name(name):
                self._send_plain(file.fileno(), 0, length)
            else:
                self._send_segment(file.fileno(), length)
            self._send_end()
        except child.ProgramFailed as reason:
            self._method = ""
            self._send_error(str(reason))

    def _send_segment(self, descriptor: int, length: int) -> None:
        """Send a segment that is stored plain. Raises child.ProgramFailed."""
        asked = self.opening.compression
        if asked in getwal.COMPRESSIONS:
            self._send_compressed(descriptor, asked)
        elif asked == protocol.ADAPTIVE and self._method:
            self._send_adaptively(descriptor, length)
        elif self._method:
            self._send_through_program(descriptor)
        else:
            self._send_plain(descriptor, 0, length)

    def _send_plain(self, descriptor: int, start: int, length: int) -> None:
        """Send `length` bytes of a file as they are, from byte `start` on."""
        client.write(protocol.HEADER.pack(protocol.DATA, length))
        position, end = start, start + length
        while position < end:
            count = client.send(descriptor, position, end - position)
            if count == 0:  # it became shorter: the promise of the header cannot be kept
                raise BrokenPipeError
            position += count
            self.sent_bytes += count

    def _send_compressed(self, descriptor: int, name: str) -> None:
        compressing = compression.make_compressor(name)
        while True:
            data = os.read(descriptor, CHUNK)
            compressed = compressing.compress(data) if data else compressing.flush()
            if compressed:
                self._send_data(compressed)
            if not data:
                break

    def _send_adaptively(self, descriptor: int, length: int) -> None:
        """Send a file, or its rest, compressed when that is faster.

        Raises child.ProgramFailed.
        """
        sent = 0
        self._link.begin_file()
        while sent < length and not self._link.should_compress():
            step = min(STEP, length - sent)
            self._send_plain(descriptor, sent, step)
            sent += step
            self._link.note_plain(step, is_end=sent == length)
        if sent < length:
            os.lseek(descriptor, sent, os.SEEK_SET)
            self._link.begin_compressed()
            is_compressed = self._send_rest_compressed(descriptor, is_begun=sent > 0)
            if is_compressed:
                self._link.note_compressed(length - sent)
            else:
                self._send_plain(descriptor, sent, length - sent)
        self._link.end_file(length)

    def _send_rest_compressed(self, descriptor: int, is_begun: bool) -> bool:
        """Send the compressed form of a file from its position on.

        Returns False where the program brings nothing: then it is not tried again.
        Raises child.ProgramFailed when it fails later.
        """
        with contextlib.closing(compressor.compress(descriptor, self._method, self._core)) as pieces:
            try:
                first = next(pieces, b"")
            except child.ProgramFailed as reason:
                self._warn(f"{reason}; files are sent as they are")
                first = b""
            if not first:
                self._method = ""
                return False
            if is_begun:
                self._send_frame(protocol.REST)
            self._send_data(first)
            for piece in pieces:
                self._send_data(piece)
        return True

    def _send_through_program(self, descriptor: int) -> None:
        """Send the compressed form of a file from its position on.

        Raises child.ProgramFailed.
        """
        with contextlib.closing(compressor.compress(descriptor, self._method, self._core)) as pieces:
            for piece in pieces:
                self._send_data(piece)

    def _send_from_barman(self, name: str) -> None:
        """Send what only Barman itself can find or undo."""
        self._send_frame(protocol.DATA)
        asked = self.opening.compression if self.opening.compression in getwal.COMPRESSIONS else ""
        request = getwal.Request(self.opening.server, name, self.opening.config, compression=asked)
        # In memory: the disk of a backup server is full one day, and then WAL must
        # still get out.
        with os.fdopen(os.memfd_create("stderr"), "w+b") as stderr:
            try:
                status = barman_command.run(request, self._send_data, client.STDOUT, stderr.fileno())
            except child.ProgramFailed as error:
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

    def _send_found(self) -> None:
        """Tell that the archive has the file, and once more that work on it goes on.

        The fetcher need not wait before it asks for what follows, on more connections.
        """
        self._send_frame(protocol.DATA if self._is_found else protocol.FOUND)
        self._is_found = True

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


def _wait_for_request(end: float) -> bool:
    """Return whether there is something to read by `end`, of the monotonic clock."""
    if select.select([STDIN], [], [], REST)[0]:
        return True
    client.PIPE.release()
    return bool(select.select([STDIN], [], [], max(0.0, end - time.monotonic()))[0])


def run(opening: Opening, key: AuthorizedKey, owner: str = "") -> int:
    """Serve a connection. Return 0: its end is no error, however it comes.

    owner: see Server.
    """
    server = Server(opening, key, owner)
    with contextlib.suppress(OSError):  # the fetcher is gone
        server.run()
    server.log_summary()
    return 0
