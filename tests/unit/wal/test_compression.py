import gzip
import io
import itertools
import lzma
import os
import re
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walbasin.wal import compression, segment
from walbasin.wal.compression import DecompressingWriter, UnsupportedCompression

from tests.support.compressed import COMPRESS, FORMS, store
from tests.support.wal_builder import MIB, build_segment

WAL = build_segment("000000010000000000000001")
HISTORY = b"1\t0/5000148\tno recovery target specified\n"
LARGEST = segment.LARGEST


def decompress(*chunks: bytes, longest: int = LARGEST) -> tuple[DecompressingWriter, bytes]:
    """Write a whole file in chunks, and return the writer and the content."""
    file = io.BytesIO()
    writer = DecompressingWriter(file, longest)
    for chunk in chunks:
        writer.write(chunk)
    writer.finish()
    return writer, file.getvalue()


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("content", [WAL, HISTORY], ids=["segment", "history"])
def test_decompression(form: str, content: bytes) -> None:
    writer, written = decompress(store(form, content))
    assert written == content
    assert (writer.length, writer.header) == (len(content), content[: segment.LONG_HEADER.size])


@pytest.mark.parametrize("form", COMPRESS)
@given(cuts=st.lists(st.integers(0, 300), max_size=8).map(sorted))
def test_arbitrary_chunks(form: str, cuts: list[int]) -> None:
    stored = store(form, WAL[:200])
    chunks = [stored[start:end] for start, end in itertools.pairwise([0, *cuts, None])]
    writer, written = decompress(*filter(None, chunks))
    assert written == WAL[:200]
    assert writer.header == WAL[: segment.LONG_HEADER.size]


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_memory_limit(form: str, tmp_path: Path) -> None:
    stored = store(form, bytes(32 * MIB))
    with (tmp_path / "file").open("wb") as file:
        writer = DecompressingWriter(file, LARGEST)
        tracemalloc.start()
        try:
            writer.write(stored)
            writer.finish()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (tmp_path / "file").stat().st_size == writer.length == 32 * MIB
    assert peak < 16 * MIB


@pytest.mark.parametrize("form", FORMS)
def test_disk_limit(form: str, tmp_path: Path) -> None:
    stored = store(form, bytes(8 * MIB))
    with (tmp_path / "file").open("wb") as file:
        writer = DecompressingWriter(file, MIB)
        with pytest.raises(segment.InvalidWal):
            writer.write(stored)
            writer.finish()
        writer.close()
    assert (tmp_path / "file").stat().st_size <= MIB


@pytest.mark.parametrize("content", [b"", b"1", b"1\t0/100"])
def test_file_shorter_than_magic(content: bytes) -> None:
    assert decompress(content)[1] == content


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_compressed_file(form: str, share: float) -> None:
    stored = store(form, WAL[:4096])
    end = max(8, int(len(stored) * share))
    with pytest.raises(segment.InvalidWal):
        decompress(stored[:end])


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
@pytest.mark.parametrize("is_apart", [False, True], ids=["with the last bytes", "on its own"])
def test_bytes_behind_compressed_file(form: str, is_apart: bool) -> None:
    stored = store(form, WAL)
    with pytest.raises(segment.InvalidWal):
        decompress(*((stored, b"more") if is_apart else (stored + b"more",)))


def in_streams(form: str, size: int) -> bytes:
    """Return the segment stored in several streams, as pbzip2 and bgzip write them."""
    return b"".join(store(form, WAL[start : start + size]) for start in range(0, len(WAL), size))


def decompress_on_disk(folder: Path, *chunks: bytes, longest: int = LARGEST) -> bytes:
    """Write a whole file in chunks, as zstd and lz4 need it, and return its content."""
    with (folder / "file").open("w+b") as file:
        writer = DecompressingWriter(file, longest)
        try:
            for chunk in chunks:
                writer.write(chunk)
            writer.finish()
        finally:
            writer.close()
        assert writer.length == (folder / "file").stat().st_size
        return (folder / "file").read_bytes()


HALVES = (WAL[: len(WAL) // 2], WAL[len(WAL) // 2 :])
REFUSED = re.compile("followed by something else|damaged")
PADDED = [("gzip", 1), ("gzip", 511), ("bzip2", 1), ("bzip2", 100_000), ("xz", 4), ("xz", 65536)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1000, 1 << 30])
def test_several_streams(tmp_path: Path, form: str, chunk: int) -> None:
    first, second = (store(form, half) for half in HALVES)
    empty = store(form, b"")
    for stored in (first + second, empty + first + empty + empty + second + empty, in_streams(form, MIB)):
        chunks = [stored[start : start + chunk] for start in range(0, len(stored), chunk)]
        assert decompress_on_disk(tmp_path, *chunks) == WAL


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
@given(cuts=st.lists(st.integers(0, 500), max_size=8).map(sorted))
def test_arbitrary_chunks_of_streams(form: str, cuts: list[int]) -> None:
    """Cut within the beginning of a stream, too."""
    stored = store(form, WAL[:100]) + store(form, b"") + store(form, WAL[100:200])
    stored += bytes(compression.PADDING[form] * 3)
    chunks = [stored[start:end] for start, end in itertools.pairwise([0, *cuts, None])]
    assert decompress(*filter(None, chunks))[1] == WAL[:200]


@pytest.mark.parametrize(("form", "zeros"), PADDED)
def test_padding(form: str, zeros: int) -> None:
    """Accept zeros behind the last stream where the tool does."""
    stored = in_streams(form, len(WAL) // 2) + bytes(zeros)
    assert decompress(stored)[1] == WAL
    tool = subprocess.run([form, "-dcq"], input=stored, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    assert tool.stdout == WAL
    for more in (b"x", b"\0x", bytes(zeros) + b"x"):
        with pytest.raises(segment.InvalidWal, match=f"its {form} form is followed by something else"):
            decompress(stored + more)


def test_padding_between_streams() -> None:
    """Accept it in xz, which has it, and nowhere else."""
    first, second = map(lzma.compress, HALVES)
    assert decompress(first + bytes(8) + second + bytes(4))[1] == WAL
    for padding in (1, 2, 3, 5):
        with pytest.raises(segment.InvalidWal, match="something else"):
            decompress(first + bytes(padding) + second)
        with pytest.raises(segment.InvalidWal, match="something else"):
            decompress(first + second + bytes(padding))
    for form in ("gzip", "bzip2"):
        with pytest.raises(segment.InvalidWal, match=f"its {form} form is followed by something else"):
            decompress(store(form, HALVES[0]) + bytes(8) + store(form, HALVES[1]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [1, 2, 5, 10, 17, 0.3, 0.9])
def test_truncated_second_stream(tmp_path: Path, form: str, kept: float) -> None:
    first, second = (store(form, half) for half in HALVES)
    end = int(kept * len(second)) if isinstance(kept, float) else kept
    with pytest.raises(segment.InvalidWal, match="too early"):
        decompress_on_disk(tmp_path, first, second[:end])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("garbage", [b"more", b"\1", WAL[:8192], bytes(3) + b"x"])
def test_garbage_behind_first_stream(tmp_path: Path, form: str, garbage: bytes) -> None:
    for behind in (garbage, garbage + store(form, HALVES[1])):
        with pytest.raises(segment.InvalidWal, match=REFUSED):
            decompress_on_disk(tmp_path, store(form, HALVES[0]) + behind)


@pytest.mark.parametrize("form", sorted({*FORMS} - {"zstd"}))  # zstd reads the others as well
def test_other_compression_behind_first_stream(tmp_path: Path, form: str) -> None:
    other = "bzip2" if form == "gzip" else "gzip"
    with pytest.raises(segment.InvalidWal, match=REFUSED):
        decompress_on_disk(tmp_path, store(form, HALVES[0]) + store(other, HALVES[1]))


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_damaged_second_stream(form: str) -> None:
    first, second = (store(form, half) for half in HALVES)
    middle = len(second) // 2
    damaged = second[:middle] + bytes(byte ^ 0xFF for byte in second[middle : middle + 16]) + second[middle + 16 :]
    with pytest.raises(segment.InvalidWal, match="damaged"):
        decompress(first + damaged)


@pytest.mark.parametrize("form", FORMS)
def test_too_long_in_streams(tmp_path: Path, form: str) -> None:
    """Keep the limit for all streams together."""
    halves = store(form, bytes(MIB // 2)) * 2
    assert len(decompress_on_disk(tmp_path, halves, longest=MIB)) == MIB
    with pytest.raises(segment.InvalidWal):
        decompress_on_disk(tmp_path, halves + store(form, bytes(MIB // 8)), longest=MIB)
    assert (tmp_path / "file").stat().st_size <= MIB


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_too_many_streams(form: str) -> None:
    """Refuse what consists of empty streams, in a time that their bytes explain."""
    stored = store(form, b"") * 50_000
    began = time.process_time()
    with pytest.raises(segment.InvalidWal, match="too many streams"):
        decompress(stored[: compression.longest_compressed(16 * MIB)], longest=16 * MIB)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(("form", "size"), [("gzip", 64 << 10), ("bzip2", 900_000), ("xz", MIB)])
def test_speed_of_several_streams(form: str, size: int) -> None:
    """Take as long as for one stream: bgzip's blocks, and those of pbzip2."""

    def seconds(stored: bytes) -> float:
        began = time.process_time()
        decompress(stored)
        return time.process_time() - began

    one, several = store(form, WAL), in_streams(form, size)
    rounds = [(seconds(one), seconds(several)) for _ in range(3)]
    assert min(later for _, later in rounds) < 1.5 * min(first for first, _ in rounds) + 0.05


def test_pzstd(tmp_path: Path) -> None:
    stored = subprocess.run(["pzstd", "-q", "-c", "-p", "4"], input=WAL, stdout=subprocess.PIPE, check=True).stdout
    assert decompress_on_disk(tmp_path, stored) == WAL


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_damaged_compressed_file(form: str) -> None:
    stored = bytearray(store(form, WAL))
    for position in range(len(stored) // 2, len(stored) // 2 + 16):
        stored[position] ^= 0xFF
    with pytest.raises(segment.InvalidWal, match="damaged"):
        decompress(bytes(stored))


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\x06\x00\x00sNaPpY", "snappy"),
        (b"\x85\x02\x0c\x03\xaa\xbb\xcc\xdd", "GPG"),
        (b"\x84\x5e\x03\xaa\xbb\xcc\xdd\xee", "GPG"),
        (b"-----BEGIN PGP MESSAGE-----\n", "GPG"),
    ],
)
def test_unsupported_compression(start: bytes, kind: str) -> None:
    with pytest.raises(UnsupportedCompression, match=kind):
        decompress(start + bytes(1000))


@pytest.mark.parametrize("program", ["zstd", "lz4"])
def test_zstd_and_lz4(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = subprocess.run([program, "-c"], input=WAL, stdout=subprocess.PIPE, check=True).stdout
    with (tmp_path / "whole").open("w+b") as file:
        writer = DecompressingWriter(file, LARGEST)
        writer.write(stored[:1000])
        writer.write(stored[1000:])
        writer.finish()
        assert (writer.length, writer.header) == (len(WAL), WAL[: segment.LONG_HEADER.size])
    assert (tmp_path / "whole").read_bytes() == WAL
    with (tmp_path / "short").open("w+b") as file:
        writer = DecompressingWriter(file, LARGEST)
        writer.write(stored[:-5])
        with pytest.raises(segment.InvalidWal, match="ends too early"):
            writer.finish()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedCompression, match=program):
        decompress(stored)


@pytest.mark.parametrize("form", COMPRESS)
def test_too_long_decompressed(form: str) -> None:
    decompress(store(form, bytes(MIB)), longest=MIB)
    with pytest.raises(segment.InvalidWal, match=f"such a file has {MIB} bytes at most"):
        decompress(store(form, bytes(MIB + 1)), longest=MIB)


def test_too_long_compressed() -> None:
    """Refuse what expands to nothing, and never ends."""
    endless = gzip.compress(b"", 0)[:10] + b"\x00\x00\x00\xff\xff" * MIB
    with pytest.raises(segment.InvalidWal, match="too long"):
        decompress(endless, longest=MIB)


def test_incompressible_file() -> None:
    """Let through what becomes longer when it is compressed."""
    content = os.urandom(MIB)
    for form in ("gzip", "bzip2", "xz"):
        assert decompress(store(form, content), longest=MIB)[1] == content


@pytest.mark.parametrize(("dictionary", "is_accepted"), [(32 * MIB, True), (96 * MIB, False)])
def test_xz_memory(dictionary: int, is_accepted: bool) -> None:
    """Let xz -9 through, which has a dictionary of 64 MiB, and nothing larger."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}]
    stored = lzma.compress(WAL, filters=filters)
    if is_accepted:
        assert decompress(stored)[1] == WAL
    else:
        with pytest.raises(UnsupportedCompression, match="72 MiB"):
            decompress(stored)
