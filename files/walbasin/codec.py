"""Compressed WAL on its way: recognised by its first bytes (Barman keeps no other mark), and undone."""

import contextlib
import os
import shutil
import subprocess
from typing import Any, BinaryIO, Callable, Dict, Optional, Tuple

from walbasin import segment
from walbasin.segment import Invalid

MAGIC_LENGTH = 8
SPLICE_NONBLOCK = 2


class Undecodable(Invalid):
    """Stored in a form that cannot be undone here."""


def _gzip() -> Any:
    import zlib

    return zlib.decompressobj(wbits=31)


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ)


# None of these can begin a WAL page (whose magic is 0xDnnn in either byte order's first two bytes) or a history.
MAGICS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xff\x06\0\0sNaP": "snappy",
    b"\x85": "GPG",
    b"\x84": "GPG",
    b"-----BEG": "GPG",
}
DECODERS: Dict[str, Callable[[], Any]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz}
# Python's standard library has no zstd before 3.14, and no lz4 at all; the programs are in every distribution.
PROGRAMS = ("zstd", "lz4")


def kind(start: bytes) -> str:
    """How a file is stored that begins with `start`; empty when it is plain."""
    return next((name for magic, name in MAGICS.items() if start.startswith(magic)), "")


def accepted() -> Tuple[str, ...]:
    """The kinds that can be undone on this host."""
    return (*DECODERS, *filter(shutil.which, PROGRAMS))


def compressor(name: str) -> Any:
    """For gzip or bzip2 on the fly, where speed matters more than the last percent."""
    if name == "gzip":
        import zlib

        return zlib.compressobj(1, zlib.DEFLATED, 31)
    import bz2

    return bz2.BZ2Compressor(1)


class Sink:
    """Takes the bytes of one file as they arrive, writes them decoded, and says at the end whether it is whole.

    After `finish` it has their number as `length`, and the first of them as `header`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.header = b""
        self.length = 0
        self._file = file
        self._waiting = b""
        self._decoder: Any = None
        self._program: Optional[subprocess.Popen[bytes]] = None
        self._is_decided = False

    def write(self, data: bytes) -> None:
        """Raises Invalid when the bytes cannot be, or can no longer be, those of a WAL file; OSError from the disk."""
        if not self._is_decided:
            self._waiting += data
            if len(self._waiting) < MAGIC_LENGTH:
                return
            data, self._waiting = self._waiting, b""
            self._decide(data)
        self._pass_on(data)

    def splice(self, pipe: int, most: int) -> Optional[int]:
        """Move up to `most` bytes from a pipe without looking at them, when nothing about them is open any more.

        The number of bytes moved (0: the pipe has ended), or None when they have to go through `write`.
        Raises BlockingIOError while the pipe is empty, and OSError from the disk.
        """
        if not hasattr(os, "splice") or self._decoder or self._program or len(self.header) < segment.LONG_HEADER.size:
            return None
        self._file.flush()
        moved = os.splice(pipe, self._file.fileno(), most, flags=SPLICE_NONBLOCK)
        self.length += moved
        return moved

    def _decide(self, start: bytes) -> None:
        self._is_decided = True
        stored = kind(start)
        if stored in DECODERS:
            self._decoder = DECODERS[stored]()
        elif stored in PROGRAMS and shutil.which(stored):
            self._file.flush()
            self._program = subprocess.Popen(
                [stored, "-dcq"], stdin=subprocess.PIPE, stdout=self._file.fileno(), stderr=subprocess.DEVNULL
            )
        elif stored:
            raise Undecodable(f"it is stored as {stored}, which cannot be undone here")

    def _pass_on(self, data: bytes) -> None:
        if self._program is not None:
            assert self._program.stdin is not None
            try:
                self._program.stdin.write(data)
            except BrokenPipeError:
                raise Invalid("its compression is damaged") from None
            return
        if self._decoder is not None:
            if self._decoder.eof:
                raise Invalid("there is more behind the end of the compressed file")
            try:
                data = self._decoder.decompress(data)
            except Exception as error:  # zlib.error, OSError and LZMAError have no common parent of their own
                raise Invalid(f"its compression is damaged: {error}") from error
        if len(self.header) < segment.LONG_HEADER.size:
            self.header += data[: segment.LONG_HEADER.size - len(self.header)]
        self.length += len(data)
        if self.length > segment.LARGEST:
            raise Invalid("longer than any WAL segment")
        self._file.write(data)

    def finish(self) -> None:
        """No more bytes will come. Raises Invalid when something is missing."""
        if not self._is_decided:
            self._decide(self._waiting)
            self._pass_on(self._waiting)
        if self._program is not None:
            if self.close() != 0:
                raise Invalid("its compression is damaged, or ends too early")
            self.length = os.fstat(self._file.fileno()).st_size
            self.header = os.pread(self._file.fileno(), segment.LONG_HEADER.size, 0)
        if self._decoder is not None and (not self._decoder.eof or self._decoder.unused_data):
            raise Invalid("its compressed form ends too early, or is followed by something else")
        self._file.flush()

    def close(self) -> Optional[int]:
        """End the program that undoes the compression, if there is one. Its exit status."""
        if self._program is None:
            return None
        assert self._program.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._program.stdin.close()
        return self._program.wait()
