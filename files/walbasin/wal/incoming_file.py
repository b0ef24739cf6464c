"""Write a file that comes from a Barman host: decompress it when it is whole."""

import os
from typing import BinaryIO, Callable, Optional

from walbasin.wal import compression, segment
from walbasin.wal.compression import DecompressingWriter
from walbasin.wal.segment import InvalidWal

# Bytes that a file may grow by between two looks for space: what a pipe holds.
PIECE = 1024 * 1024
# fcntl.h; Python's os has the call, not the flag.
SPLICE_NONBLOCK = 2


class IncomingFile:
    """Write the bytes of one file as they come, and decompress it when it is whole.

    What is plain goes to its place at once. What is compressed, a file or the rest of
    one, goes to a temporary file first, so that no file waits while another is
    decompressed. After `finish`, `length` and `header` are those of the decompressed
    file, as in DecompressingWriter.
    """

    def __init__(
        self,
        file: BinaryIO,
        create_temporary: Callable[[], BinaryIO],
        longest: int,
        check_space: Callable[[int], None] = compression.allow_all,
    ) -> None:
        """create_temporary: makes the file for the compressed form.

        longest, check_space: see DecompressingWriter.
        """
        self.header = b""
        self.length = 0
        # How it comes, or its rest; empty when all of it is plain.
        self.compression = ""
        # Bytes that may arrive: of the plain file, once it is known to be one.
        self._longest_arrival = compression.longest_compressed(longest)
        self._file = file
        self._create_temporary = create_temporary
        self._longest = longest
        self._check_space = check_space
        # Bytes at which to look for space again.
        self._next_check = 0
        self._received: Optional[BinaryIO] = None
        self._count = 0
        # Bytes that came plain before a compressed rest.
        self._plain_bytes = 0
        self._waiting = b""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises InvalidWal when there are too many, OSError."""
        if self._received is None:
            self._waiting += data
            if len(self._waiting) < compression.MAGIC_LENGTH:
                return
            data, self._waiting = self._waiting, b""
            self._decide(data)
        self._put(data)

    def _decide(self, start: bytes) -> None:
        self.compression = compression.detect_compression(start)
        if self.compression:
            self._received = self._create_temporary()
        elif self._plain_bytes:
            raise InvalidWal("its rest should be compressed, and is not")
        else:
            self._received, self._longest_arrival = self._file, self._longest

    def expect_compressed_rest(self) -> None:
        """Take what comes from now on for the compressed rest of a plain file.

        Raises InvalidWal where there is no plain part, or a compressed rest already.
        """
        if self._received is not self._file or self._plain_bytes:
            raise InvalidWal("a compressed rest of what is not plain")
        self._received, self._plain_bytes = None, self._count
        self._longest_arrival = compression.longest_compressed(self._longest)

    def _put(self, data: bytes) -> None:
        assert self._received is not None
        self._count += len(data)
        self.check_arrival(self._count)
        self._look_for_space()
        self._received.write(data)
        # Flush at once: nothing may be left in a buffer when more is spliced behind it.
        self._received.flush()

    def check_arrival(self, length: int) -> None:
        """Raise InvalidWal when it is too long with `length` bytes, as they come."""
        if length > self._longest_arrival:
            raise compression.too_long(self._longest)

    def _look_for_space(self) -> None:
        if self._count >= self._next_check:
            self._next_check = self._count + compression.CHUNK
            # No more than what a plain file still needs, for which there was room.
            self._check_space(min(PIECE, self._longest_arrival - self._count))

    def splice(self, pipe: int, most: int) -> Optional[int]:
        """Move up to `most` bytes from a pipe, without a copy in our memory.

        Returns the number of bytes; 0 when the pipe has ended; None when the bytes have
        to go through `write`. Raises BlockingIOError while the pipe is empty, and what
        `write` raises.
        """
        if self._received is None or not hasattr(os, "splice"):
            return None
        self._look_for_space()
        # One byte more than there can be tells that it is too long.
        most = min(most, self._longest_arrival + 1 - self._count)
        moved = os.splice(pipe, self._received.fileno(), most, flags=SPLICE_NONBLOCK)
        self._count += moved
        self.check_arrival(self._count)
        return moved

    def finish(self) -> None:
        """Decompress what is compressed, which may take long. Raises as `write`."""
        if self._received is None:
            self._decide(self._waiting)
            self._put(self._waiting)
        if self.compression:
            self._decompress()
        self.length = os.fstat(self._file.fileno()).st_size
        self.header = os.pread(self._file.fileno(), segment.LONG_HEADER.size, 0)

    def _decompress(self) -> None:
        assert self._received is not None
        writer = DecompressingWriter(self._file, self._longest, self._check_space, written=self._plain_bytes)
        try:
            self._received.seek(0)
            while data := self._received.read(compression.CHUNK):
                writer.write(data)
            writer.finish()
        finally:
            writer.close()

    def close(self) -> None:
        """Close the temporary file, if there is one."""
        if self._received is not None and self._received is not self._file:
            self._received.close()
