"""Answer the requests of one connection, for as long as the fetcher keeps it open."""

import os
import select
import signal
import sys
import syslog
import time
from typing import IO, Optional

from walbasin.gate import barman_archive
from walbasin.gate.barman_archive import ArchiveMissing, UnknownFolders
from walbasin.wal import compression, getwal, protocol, segment
from walbasin.wal.protocol import Opening

STDIN, STDOUT = 0, 1
# Seconds, for a request and for each piece of an answer. A fetcher that is still there
# asks, takes what it is given, or ends the connection, long before that.
TIME_LIMIT = 300
# Bytes that are read at a time, and that the kernel sends at a time.
CHUNK = 256 * 1024
PIECE = 4 << 20


class Server:
    """Answer the requests of one connection, in their order."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.folders: Optional[barman_archive.Folders] = None
        client = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
        self._client = f" (SSH host: {client})" if client else ""
        try:
            config = barman_archive.read_config(opening.config)
            self._log = barman_archive.open_log(config)
            self.folders = barman_archive.find_folders(config, opening.server)
        except UnknownFolders as reason:
            syslog.syslog(syslog.LOG_WARNING, f"{opening.server}: {reason}; serving through barman get-wal, slowly")

    def run(self) -> None:
        """Serve until the fetcher ends, or asks for nothing for TIME_LIMIT seconds."""
        _write(protocol.GREETING + b"\n")
        waiting = b""
        end = time.monotonic() + TIME_LIMIT
        while True:
            signal.alarm(0)
            if not select.select([STDIN], [], [], max(0.0, end - time.monotonic()))[0]:
                return
            data = os.read(STDIN, 4096)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                self.handle_request(line)
                end = time.monotonic() + TIME_LIMIT
            if len(waiting) > protocol.LONGEST_REQUEST:
                _write(_error_frame("a request without an end"))
                return

    def handle_request(self, line: bytes) -> None:
        """Send the file that a line asks for, or say why not.

        Raises OSError when the connection is gone.
        """
        try:
            name = protocol.parse_request(line)
        except getwal.Refused as refusal:
            _write(_error_frame(str(refusal)))
            return
        try:
            found = barman_archive.open_file(self.folders, name) if self.folders is not None else None
        except ArchiveMissing as reason:
            _write(_error_frame(str(reason)))
            return
        except OSError as error:
            _write(_error_frame(f"{error.filename}: {error.strerror}"))
            return
        if found is not None:
            self._send(name, *found)
        elif self.folders is not None:
            _write(protocol.frame(protocol.ABSENT))
        else:
            self._send_from_barman(name)

    def _send(self, name: str, descriptor: int, length: int) -> None:
        try:
            stored = compression.detect_compression(os.pread(descriptor, compression.MAGIC_LENGTH, 0))
            if stored and stored not in self.opening.accepts:
                self._send_from_barman(name)
                return
            self._log.info(
                "Sending WAL '%s' for server '%s' to standard output%s", name, self.opening.server, self._client
            )
            if self.opening.compression and not stored and segment.is_segment_name(name):
                self._send_compressed(descriptor)
                return
            _write(protocol.HEADER.pack(protocol.DATA, length))
            sent = 0
            while sent < length:
                signal.alarm(TIME_LIMIT)
                count = os.sendfile(STDOUT, descriptor, sent, min(length - sent, PIECE))
                if count == 0:  # it became shorter: the promise of the header cannot be kept
                    raise BrokenPipeError
                sent += count
            _write(protocol.frame(protocol.END))
        finally:
            os.close(descriptor)

    def _send_compressed(self, descriptor: int) -> None:
        compressor = compression.make_compressor(self.opening.compression)
        while True:
            data = os.read(descriptor, CHUNK)
            compressed = compressor.compress(data) if data else compressor.flush()
            if compressed:
                _write(protocol.frame(protocol.DATA, compressed))
            if not data:
                break
        _write(protocol.frame(protocol.END))

    def _send_from_barman(self, name: str) -> None:
        """Send what only Barman itself can find or decompress."""
        import subprocess  # rarely needed, and a cold start waits for every import

        request = getwal.Request(self.opening.server, name, self.opening.config, compression=self.opening.compression)
        # In memory: the disk of a backup server is full one day, and then WAL must
        # still get out.
        with os.fdopen(os.memfd_create("stderr"), "w+b") as stderr:
            try:
                process = subprocess.Popen(
                    ["barman", *getwal.arguments(request)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
            except OSError as error:
                _write(_error_frame(f"cannot run barman: {error.strerror}"))
                return
            with process:
                assert process.stdout is not None
                _relay(process.stdout)
            stderr.seek(0)
            output = stderr.read(protocol.LONGEST_ERROR).decode("utf-8", "replace")
            _write(_last_frame(name, process.returncode, output))


def _relay(source: IO[bytes]) -> None:
    while True:
        # A Barman that hangs must not keep one of the key's slots for ever.
        signal.alarm(TIME_LIMIT)
        data = os.read(source.fileno(), CHUNK)
        if not data:
            return
        _write(protocol.frame(protocol.DATA, data))


def _last_frame(name: str, status: int, stderr: str) -> bytes:
    """Return the frame that ends Barman's answer."""
    if status == 0:
        return protocol.frame(protocol.END)
    if getwal.means_absent(name, status, stderr):
        return protocol.frame(protocol.ABSENT)
    output = stderr.strip().splitlines()[-1:] or ["it ended without a word"]
    return _error_frame(f"barman get-wal ended with status {status}: {output[0]}")


def _error_frame(text: str) -> bytes:
    return protocol.frame(protocol.ERROR, text.encode("utf-8", "replace")[: protocol.LONGEST_ERROR])


def _write(data: bytes) -> None:
    """Write to the fetcher. Ends the process when nobody reads."""
    view = memoryview(data)
    while view:
        signal.alarm(TIME_LIMIT)
        view = view[os.write(STDOUT, view) :]


def run(opening: Opening) -> int:
    """Serve a connection. Return 0: its end is no error, however it comes."""
    try:
        Server(opening).run()
    except OSError:
        # The fetcher is gone. Python must not try again at the end to write what is
        # still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
