"""Compressed WAL on its way: recognised by its first bytes (Barman keeps no other mark), undone where Python can."""

from typing import Any, BinaryIO, Callable, Dict

from walbasin import segment
from walbasin.segment import Invalid

MAGIC_LENGTH = 8


class Undecodable(Invalid):
    """Stored in a form that Python's standard library cannot undo."""


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
DECODERS: Dict[bytes, Callable[[], Any]] = {b"\x1f\x8b": _gzip, b"BZh": _bzip2, b"\xfd7zXZ\0": _xz}
UNDECODABLE = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xff\x06\0\0sNaP": "snappy",
    b"\x85": "GPG",
    b"\x84": "GPG",
    b"-----BEG": "GPG",
}


class Sink:
    """Takes the bytes of one file as they arrive, writes them decoded, and says at the end whether it is whole."""

    def __init__(self, file: BinaryIO) -> None:
        self.header = b""
        self.length = 0
        self._file = file
        self._waiting = b""
        self._decoder: Any = None
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

    def _decide(self, start: bytes) -> None:
        self._is_decided = True
        for magic, make in DECODERS.items():
            if start.startswith(magic):
                self._decoder = make()
                return
        for magic, kind in UNDECODABLE.items():
            if start.startswith(magic):
                raise Undecodable(f"it is stored as {kind}, which Python's standard library cannot undo")

    def _pass_on(self, data: bytes) -> None:
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
        if self._decoder is not None and (not self._decoder.eof or self._decoder.unused_data):
            raise Invalid("its compressed form ends too early, or is followed by something else")
        self._file.flush()
