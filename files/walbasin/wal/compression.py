"""Compressed WAL on its way: recognised by its first bytes (Barman keeps no other mark), and undone."""

import contextlib
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Optional, Tuple

from walbasin.wal import segment
from walbasin.wal.segment import Invalid

if TYPE_CHECKING:
    import subprocess

MAGIC_LENGTH = 8
CHUNK = 256 * 1024
# Of a file on its way: what cannot be compressed becomes a little longer.
LONGEST = 2 * segment.LARGEST
SPLICE_NONBLOCK = 2
# Bytes; xz -9, its highest level, needs half of it.
XZ_MEMORY = 128 << 20


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

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)


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
    return (*DECODERS, *filter(_is_installed, PROGRAMS))


def _is_installed(program: str) -> bool:
    # shutil.which, without the import of every compression that Python knows.
    paths = (os.path.join(folder, program) for folder in os.get_exec_path())
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)


def compressor(name: str) -> Any:
    """For gzip or bzip2 on the fly, where speed matters more than the last percent."""
    if name == "gzip":
        import zlib

        return zlib.compressobj(1, zlib.DEFLATED, 31)
    import bz2

    return bz2.BZ2Compressor(1)


class Sink:
    """Takes the bytes of one file as they come, writes them decoded, and says at the end whether it is whole.

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

    def _decide(self, start: bytes) -> None:
        self._is_decided = True
        stored = kind(start)
        if stored in DECODERS:
            self._decoder = DECODERS[stored]()
        elif stored in PROGRAMS and _is_installed(stored):
            import resource
            import subprocess

            self._file.flush()
            self._program = subprocess.Popen(
                [stored, "-dcq"],
                stdin=subprocess.PIPE,
                stdout=self._file.fileno(),
                stderr=subprocess.DEVNULL,
                restore_signals=False,  # SIGXFSZ stays ignored: an error of the program, and no core dump
            )
            # It has seen nothing yet, and cannot write more than a segment has, whatever it sees.
            resource.prlimit(self._program.pid, resource.RLIMIT_FSIZE, (segment.LARGEST, segment.LARGEST))
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
        if self._decoder is None:
            self._put(data)
            return
        if self._decoder.eof:
            raise Invalid("there is more behind the end of the compressed file")
        piece = self._decode(data)
        while piece:
            self._put(piece)
            # zlib hands back what it has not looked at yet, the others keep it.
            piece = b"" if self._decoder.eof else self._decode(getattr(self._decoder, "unconsumed_tail", b""))

    def _decode(self, data: bytes) -> bytes:
        """No more than CHUNK bytes at a time: zeros, and who wants to harm us, are compressed a thousand times."""
        try:
            return bytes(self._decoder.decompress(data, CHUNK))
        except Exception as error:  # zlib.error, OSError and LZMAError have no common parent of their own
            raise Invalid(f"its compression is damaged: {error}") from error

    def _put(self, data: bytes) -> None:
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


class Arrival:
    """Takes the bytes of one file as they arrive, without a look at them but for the first few.

    Plain ones go where they belong, compressed ones aside, so that no arrival waits while another is undone.
    After `finish` it has `length` and `header` as a Sink has them.
    """

    def __init__(self, file: BinaryIO, aside: Callable[[], BinaryIO]) -> None:
        """aside: makes the file for what is compressed."""
        self.header = b""
        self.length = 0
        self.is_compressed = False
        self._file = file
        self._aside = aside
        self._received: Optional[BinaryIO] = None
        self._came = 0
        self._waiting = b""

    def write(self, data: bytes) -> None:
        """Raises Invalid when there is more than any WAL segment has, and OSError from the disk."""
        if self._received is None:
            self._waiting += data
            if len(self._waiting) < MAGIC_LENGTH:
                return
            data, self._waiting = self._waiting, b""
            self._decide(data)
        self._put(data)

    def _decide(self, start: bytes) -> None:
        self.is_compressed = bool(kind(start))
        self._received = self._aside() if self.is_compressed else self._file

    def _put(self, data: bytes) -> None:
        assert self._received is not None
        self._count(len(data))
        self._received.write(data)
        # Nothing may be left in a buffer when more is spliced behind it.
        self._received.flush()

    def _count(self, length: int) -> None:
        self._came += length
        if self._came > LONGEST:
            raise Invalid("longer than any WAL segment")

    def splice(self, pipe: int, most: int) -> Optional[int]:
        """Move up to `most` bytes from a pipe, or say None when they have to go through `write`.

        The number of bytes moved; 0: the pipe has ended. Raises BlockingIOError while it is empty, and as `write` does.
        """
        if self._received is None or not hasattr(os, "splice"):
            return None
        moved = os.splice(pipe, self._received.fileno(), most, flags=SPLICE_NONBLOCK)
        self._count(moved)
        return moved

    def finish(self) -> None:
        """No more bytes will come: undo what is compressed, which takes its time. Raises Invalid, OSError."""
        if self._received is None:
            self._decide(self._waiting)
            self._put(self._waiting)
        if self.is_compressed:
            self._undo()
        else:
            self.length = os.fstat(self._file.fileno()).st_size
            self.header = os.pread(self._file.fileno(), segment.LONG_HEADER.size, 0)

    def _undo(self) -> None:
        assert self._received is not None
        sink = Sink(self._file)
        try:
            self._received.seek(0)
            while data := self._received.read(CHUNK):
                sink.write(data)
            sink.finish()
        finally:
            sink.close()
        self.header, self.length = sink.header, sink.length

    def close(self) -> None:
        """Let go of what was put aside."""
        if self._received is not None and self._received is not self._file:
            self._received.close()
