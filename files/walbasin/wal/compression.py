"""Recognise compressed WAL by its first bytes, and decompress it as it arrives.

Barman keeps no other mark of how a file is stored.
"""

import contextlib
import os
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Iterator, Optional, Tuple

from walbasin.wal import segment
from walbasin.wal.segment import InvalidWal

if TYPE_CHECKING:
    import subprocess

# Bytes that tell one compression from another.
MAGIC_LENGTH = 8
# Bytes that are read or decompressed at a time.
CHUNK = 256 * 1024
# Bytes by which a compressed file may be longer than the plain one: what cannot be
# compressed becomes a little longer. The first is a share of the plain one.
LONGER_SHARE, LONGER = 8, 64 * 1024
# Bytes; xz -9, its highest level, needs 65 MiB.
XZ_MEMORY = 72 << 20


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
    b"\x50\x2a\x4d\x18": "zstd",  # a frame to be skipped, with which pzstd begins
    b"\x04\x22\x4d\x18": "lz4",
    b"\xff\x06\0\0sNaP": "snappy",
    b"\x85": "GPG",
    b"\x84": "GPG",
    b"-----BEG": "GPG",
}
# Bytes of zeros that may be behind a stream, as its tool has it: these, or a multiple.
# More than one stream comes from pbzip2, bgzip, `cat a.gz b.gz`, and xz's threads.
PADDING = {"gzip": 1, "bzip2": 1, "xz": 4}
# Only in xz another stream may follow them.
PADDED_BETWEEN = ("xz",)
# Streams of a file: bgzip makes one of 64 KiB. What is more only costs time.
STREAMS_AT_LEAST, BYTES_A_STREAM = 1024, 4096
# Bytes that a stream is given at a time: what is behind its end is copied.
FEED = 32 * 1024
# Those of Python's standard library.
DECOMPRESSORS: Dict[str, Callable[[], Any]] = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz}
# Python's standard library has no zstd before 3.14, and no lz4 at all; the programs are
# in every distribution.
PROGRAMS = ("zstd", "lz4")
# Those that need much memory, or a process: decompress no more than MOST_COSTLY files
# at a time.
COSTLY = ("xz", *PROGRAMS)
MOST_COSTLY = 2


def detect_compression(start: bytes) -> str:
    """Return how a file is stored that begins with `start`; empty when it is plain.

    >>> detect_compression(b"BZh91AY"), detect_compression(b"1\\t0/3000000")
    ('bzip2', '')
    """
    return next((name for magic, name in MAGICS.items() if start.startswith(magic)), "")


def longest_compressed(longest: int) -> int:
    """Return the bytes that a file can have compressed that has `longest` plain.

    >>> longest_compressed(16 << 20) / (16 << 20)
    1.12890625
    """
    return longest + longest // LONGER_SHARE + LONGER


def too_long(longest: int) -> InvalidWal:
    return InvalidWal(f"it is too long: in this cluster such a file has {longest} bytes at most")


def allow_all(_length: int) -> None:
    """Let a file grow: whoever waits for it sees to the disk."""


def supported_compressions() -> Tuple[str, ...]:
    """Return the compressions that can be decompressed on this host."""
    return (*DECOMPRESSORS, *filter(is_installed, PROGRAMS))


def is_installed(program: str) -> bool:
    """Return whether a program is in the PATH."""
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


class Decompressor:
    """Decompress a file of one or more streams, one behind the other."""

    def __init__(self, name: str, longest: int) -> None:
        """name: one of DECOMPRESSORS. longest: bytes of the decompressed file."""
        self._name = name
        self._magic = next(magic for magic, stored in MAGICS.items() if stored == name)
        self._streams_left = STREAMS_AT_LEAST + longest // BYTES_A_STREAM
        self._stream = DECOMPRESSORS[name]()
        # Behind the end of a stream: zeros, and what the next one begins with.
        self._zeros = 0
        self._start = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes expand to, CHUNK bytes at most at a time.

        Zeros, or an attack, expand a thousand times. Raises InvalidWal.
        """
        for start in range(0, len(data), FEED):
            rest = data[start : start + FEED]
            while rest:
                if self._stream.eof:
                    rest = self._begin(rest)
                else:
                    yield from self._expand(rest)
                    rest = self._stream.unused_data

    def _begin(self, data: bytes) -> bytes:
        """Begin the next stream, and return its bytes when it is known to be one.

        Raises InvalidWal.
        """
        if not self._start:
            rest = data.lstrip(b"\0")
            self._zeros += len(data) - len(rest)
            data = rest
        self._start += data
        is_misplaced = self._zeros and (self._name not in PADDED_BETWEEN or self._zeros % PADDING[self._name])
        if self._start and (is_misplaced or not self._start.startswith(self._magic[: len(self._start)])):
            raise InvalidWal(f"its {self._name} form is followed by something else")
        if len(self._start) < len(self._magic):
            return b""
        self._streams_left -= 1
        if self._streams_left < 0:
            raise InvalidWal(f"its {self._name} form consists of too many streams")
        self._stream = DECOMPRESSORS[self._name]()
        begun, self._start, self._zeros = self._start, b"", 0
        return begun

    def _expand(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._decompress(data)
            if piece:
                yield piece
            # zlib hands back what it has not looked at yet, the others keep it.
            data = getattr(self._stream, "unconsumed_tail", b"")
            if not piece or self._stream.eof:
                return

    def _decompress(self, data: bytes) -> bytes:
        try:
            return bytes(self._stream.decompress(data, CHUNK))
        except Exception as error:  # zlib.error, OSError and LZMAError have no common parent of their own
            if "Memory usage limit" in str(error):  # liblzma's
                raise UnsupportedCompression(f"xz needs more than {XZ_MEMORY >> 20} MiB to decompress it") from error
            raise InvalidWal(f"its compression is damaged: {error}") from error

    def finish(self) -> None:
        """Raise InvalidWal when something is missing."""
        if not self._stream.eof:
            raise InvalidWal(f"its {self._name} form ends too early")
        if self._start or self._zeros % PADDING[self._name]:
            raise InvalidWal(f"its {self._name} form ends too early, or is followed by something else")


class DecompressingWriter:
    """Write the bytes of one file decompressed, and verify at the end that it is whole.

    After `finish`, `length` is their number and `header` the first of them.
    """

    def __init__(
        self, file: BinaryIO, longest: int, check_space: Callable[[int], None] = allow_all, *, written: int = 0
    ) -> None:
        """longest: bytes that the file can have decompressed.

        check_space: called before the file grows by that many bytes; what it raises
        (OSError) is passed on. written: bytes that the file has already: `header` is
        then not known.
        """
        self.header = b""
        self.length = written
        self._file = file
        self._longest = longest
        self._longest_arrival = longest_compressed(longest)
        self._check_space = check_space
        self._arrived = 0
        self._waiting = b""
        self._decompressor: Optional[Decompressor] = None
        self._program: Optional[subprocess.Popen[bytes]] = None
        self._is_decided = False

    def write(self, data: bytes) -> None:
        """Take the next bytes as they came.

        Raises InvalidWal when they cannot be those of a WAL file, and OSError.
        """
        self._arrived += len(data)
        if self._arrived > self._longest_arrival:
            raise too_long(self._longest)
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
            self._decompressor = Decompressor(stored, self._longest)
        elif stored in PROGRAMS and is_installed(stored):
            import resource
            import subprocess

            self._file.flush()
            # Nobody can look while the program writes. So there must be room for all
            # files that are decompressed side by side.
            self._check_space(MOST_COSTLY * self._longest)
            self._program = subprocess.Popen(
                [stored, "-dcq"],
                stdin=subprocess.PIPE,
                stdout=self._file.fileno(),
                stderr=subprocess.DEVNULL,
                # SIGXFSZ stays ignored: an error of the program, and no core dump.
                restore_signals=False,
            )
            # The limit comes in time: the program has seen no byte yet. It can never
            # write more than the file can have.
            resource.prlimit(self._program.pid, resource.RLIMIT_FSIZE, (self._longest, self._longest))
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
        for piece in self._decompressor.feed(data):
            self._put(piece)

    def _put(self, data: bytes) -> None:
        if len(self.header) < segment.LONG_HEADER.size:
            self.header += data[: segment.LONG_HEADER.size - len(self.header)]
        self.length += len(data)
        if self.length > self._longest:
            raise too_long(self._longest)
        self._check_space(len(data))
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
        if self._decompressor is not None:
            self._decompressor.finish()
        self._file.flush()

    def close(self) -> Optional[int]:
        """End the program that decompresses, if there is one. Return its status."""
        if self._program is None:
            return None
        assert self._program.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._program.stdin.close()
        return self._program.wait()
