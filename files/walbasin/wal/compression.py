"""Recognise compressed WAL by its first bytes, and decompress it as it arrives.

Barman keeps no other mark of how a file is stored.
"""

import contextlib
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Optional, Tuple

from walbasin.wal import segment
from walbasin.wal.segment import InvalidWal

if TYPE_CHECKING:
    import subprocess

# Bytes that tell one compression from another.
MAGIC_LENGTH = 8
# Bytes that are read or decompressed at a time.
CHUNK = 256 * 1024
# Bytes of a compressed file: what cannot be compressed becomes a little longer.
LONGEST = 2 * segment.LARGEST
# fcntl.h; Python's os has the call, not the flag.
SPLICE_NONBLOCK = 2
# Bytes; xz -9, its highest level, needs half of it.
XZ_MEMORY = 128 << 20


class UnsupportedCompression(InvalidWal):
    """Report that a file is stored in a form that this host cannot decompress."""


def _gzip() -> Any:
    import zlib

    return zlib.decompressobj(wbits=31)


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)


# None of these can begin a WAL page (whose magic is 0xDnnn in either byte order's first
# two bytes) or a history.
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
# Those of Python's standard library.
DECOMPRESSORS: Dict[str, Callable[[], Any]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz}
# Python's standard library has no zstd before 3.14, and no lz4 at all; the programs are
# in every distribution.
PROGRAMS = ("zstd", "lz4")


def detect_compression(start: bytes) -> str:
    """Return how a file is stored that begins with `start`; empty when it is plain.

    >>> detect_compression(b"BZh91AY"), detect_compression(b"1\\t0/3000000")
    ('bzip2', '')
    """
    return next((name for magic, name in MAGICS.items() if start.startswith(magic)), "")


def supported_compressions() -> Tuple[str, ...]:
    """Return the compressions that can be decompressed on this host."""
    return (*DECOMPRESSORS, *filter(_is_installed, PROGRAMS))


def _is_installed(program: str) -> bool:
    # Do not use shutil.which: it imports every compression that Python knows.
    paths = (os.path.join(folder, program) for folder in os.get_exec_path())
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)


def make_compressor(name: str) -> Any:
    """Return a compressor for gzip or bzip2 at level 1: speed matters, size less."""
    if name == "gzip":
        import zlib

        return zlib.compressobj(1, zlib.DEFLATED, 31)
    import bz2

    return bz2.BZ2Compressor(1)


class DecompressingWriter:
    """Write the bytes of one file decompressed, and verify at the end that it is whole.

    After `finish`, `length` is their number and `header` the first of them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.header = b""
        self.length = 0
        self._file = file
        self._waiting = b""
        self._decompressor: Any = None
        self._program: Optional[subprocess.Popen[bytes]] = None
        self._is_decided = False

    def write(self, data: bytes) -> None:
        """Take the next bytes as they came.

        Raises InvalidWal when they cannot be those of a WAL file, and OSError.
        """
        if not self._is_decided:
            self._waiting += data
            if len(self._waiting) < MAGIC_LENGTH:
                return
            data, self._waiting = self._waiting, b""
            self._decide(data)
        self._pass_on(data)

    def _decide(self, start: bytes) -> None:
        self._is_decided = True
        stored = detect_compression(start)
        if stored in DECOMPRESSORS:
            self._decompressor = DECOMPRESSORS[stored]()
        elif stored in PROGRAMS and _is_installed(stored):
            import resource
            import subprocess

            self._file.flush()
            self._program = subprocess.Popen(
                [stored, "-dcq"],
                stdin=subprocess.PIPE,
                stdout=self._file.fileno(),
                stderr=subprocess.DEVNULL,
                # SIGXFSZ stays ignored: an error of the program, and no core dump.
                restore_signals=False,
            )
            # The limit comes in time: the program has seen no byte yet. It can never
            # write more than a segment has.
            resource.prlimit(self._program.pid, resource.RLIMIT_FSIZE, (segment.LARGEST, segment.LARGEST))
        elif stored:
            raise UnsupportedCompression(f"it is stored as {stored}, which cannot be decompressed here")

    def _pass_on(self, data: bytes) -> None:
        if self._program is not None:
            assert self._program.stdin is not None
            try:
                self._program.stdin.write(data)
            except BrokenPipeError:
                raise InvalidWal("its compression is damaged") from None
            return
        if self._decompressor is None:
            self._put(data)
            return
        if self._decompressor.eof:
            raise InvalidWal("there is more behind the end of the compressed file")
        piece = self._decompress(data)
        while piece:
            self._put(piece)
            # zlib hands back what it has not looked at yet, the others keep it.
            is_whole = self._decompressor.eof
            piece = b"" if is_whole else self._decompress(getattr(self._decompressor, "unconsumed_tail", b""))

    def _decompress(self, data: bytes) -> bytes:
        """Return CHUNK bytes at most: zeros, or an attack, expand a thousand times."""
        try:
            return bytes(self._decompressor.decompress(data, CHUNK))
        except Exception as error:  # zlib.error, OSError and LZMAError have no common parent of their own
            raise InvalidWal(f"its compression is damaged: {error}") from error

    def _put(self, data: bytes) -> None:
        if len(self.header) < segment.LONG_HEADER.size:
            self.header += data[: segment.LONG_HEADER.size - len(self.header)]
        self.length += len(data)
        if self.length > segment.LARGEST:
            raise InvalidWal("longer than any WAL segment")
        self._file.write(data)

    def finish(self) -> None:
        """Write what is left. Raises InvalidWal when something is missing."""
        if not self._is_decided:
            self._decide(self._waiting)
            self._pass_on(self._waiting)
        if self._program is not None:
            if self.close() != 0:
                raise InvalidWal("its compression is damaged, or ends too early")
            self.length = os.fstat(self._file.fileno()).st_size
            self.header = os.pread(self._file.fileno(), segment.LONG_HEADER.size, 0)
        if self._decompressor is not None and (not self._decompressor.eof or self._decompressor.unused_data):
            raise InvalidWal("its compressed form ends too early, or is followed by something else")
        self._file.flush()

    def close(self) -> Optional[int]:
        """End the program that decompresses, if there is one. Return its status."""
        if self._program is None:
            return None
        assert self._program.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._program.stdin.close()
        return self._program.wait()


class IncomingFile:
    """Write the bytes of one file as they come, and decompress it when it is whole.

    Plain files go to their place at once. Compressed ones go to a temporary file first,
    so that no file waits while another is decompressed. After `finish`, `length` and
    `header` are those of the decompressed file, as in DecompressingWriter.
    """

    def __init__(self, file: BinaryIO, create_temporary: Callable[[], BinaryIO]) -> None:
        """create_temporary: makes the file for the compressed form."""
        self.header = b""
        self.length = 0
        self.is_compressed = False
        self._file = file
        self._create_temporary = create_temporary
        self._received: Optional[BinaryIO] = None
        self._count = 0
        self._waiting = b""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises InvalidWal when there are too many, OSError."""
        if self._received is None:
            self._waiting += data
            if len(self._waiting) < MAGIC_LENGTH:
                return
            data, self._waiting = self._waiting, b""
            self._decide(data)
        self._put(data)

    def _decide(self, start: bytes) -> None:
        self.is_compressed = bool(detect_compression(start))
        self._received = self._create_temporary() if self.is_compressed else self._file

    def _put(self, data: bytes) -> None:
        assert self._received is not None
        self._add(len(data))
        self._received.write(data)
        # Flush at once: nothing may be left in a buffer when more is spliced behind it.
        self._received.flush()

    def _add(self, length: int) -> None:
        self._count += length
        if self._count > LONGEST:
            raise InvalidWal("longer than any WAL segment")

    def splice(self, pipe: int, most: int) -> Optional[int]:
        """Move up to `most` bytes from a pipe, without a copy in our memory.

        Returns the number of bytes; 0 when the pipe has ended; None when the bytes have
        to go through `write`. Raises BlockingIOError while the pipe is empty, and what
        `write` raises.
        """
        if self._received is None or not hasattr(os, "splice"):
            return None
        moved = os.splice(pipe, self._received.fileno(), most, flags=SPLICE_NONBLOCK)
        self._add(moved)
        return moved

    def finish(self) -> None:
        """Decompress what is compressed, which may take long. Raises as `write`."""
        if self._received is None:
            self._decide(self._waiting)
            self._put(self._waiting)
        if self.is_compressed:
            self._decompress()
        else:
            self.length = os.fstat(self._file.fileno()).st_size
            self.header = os.pread(self._file.fileno(), segment.LONG_HEADER.size, 0)

    def _decompress(self) -> None:
        assert self._received is not None
        writer = DecompressingWriter(self._file)
        try:
            self._received.seek(0)
            while data := self._received.read(CHUNK):
                writer.write(data)
            writer.finish()
        finally:
            writer.close()
        self.header, self.length = writer.header, writer.length

    def close(self) -> None:
        """Close the temporary file, if there is one."""
        if self._received is not None and self._received is not self._file:
            self._received.close()
