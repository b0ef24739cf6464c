import bz2
import gzip
import io
import itertools
import lzma
import os
import shutil
import subprocess
import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walbasin.wal import segment
from walbasin.wal.compression import DecompressingWriter, IncomingFile, UnsupportedCompression

from tests.support.wal_builder import MIB, build_segment

WAL = build_segment("000000010000000000000001")
HISTORY = b"1\t0/5000148\tno recovery target specified\n"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def arrived(folder: Path, *chunks: bytes) -> tuple[IncomingFile, bytes]:
    """What an arrival made of a whole file that came in these pieces."""
    with (folder / "file").open("w+b") as file, closing(IncomingFile(file, tempfile.TemporaryFile)) as arrival:
        for chunk in chunks:
            arrival.write(chunk)
        arrival.finish()
        file.seek(0)
        return arrival, file.read()


def received(*chunks: bytes) -> tuple[DecompressingWriter, bytes]:
    """What a sink made of a whole file that came in these pieces."""
    file = io.BytesIO()
    sink = DecompressingWriter(file)
    for chunk in chunks:
        sink.write(chunk)
    sink.finish()
    return sink, file.getvalue()


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("content", [WAL, HISTORY], ids=["segment", "history"])
def test_a_file_arrives_whole_in_whatever_form_it_is_stored(form: str, content: bytes) -> None:
    sink, written = received(COMPRESS[form](content))
    assert written == content
    assert (sink.length, sink.header) == (len(content), content[: segment.LONG_HEADER.size])


@pytest.mark.parametrize("form", COMPRESS)
@given(cuts=st.lists(st.integers(0, 300), max_size=8).map(sorted))
def test_it_does_not_matter_in_which_pieces_it_comes(form: str, cuts: list[int]) -> None:
    stored = COMPRESS[form](WAL[:200])
    pieces = [stored[start:end] for start, end in itertools.pairwise([0, *cuts, None])]
    sink, written = received(*filter(None, pieces))
    assert written == WAL[:200]
    assert sink.header == WAL[: segment.LONG_HEADER.size]


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_what_is_compressed_a_thousand_times_does_not_fill_the_memory(form: str, tmp_path: Path) -> None:
    stored = COMPRESS[form](bytes(64 * MIB))
    with (tmp_path / "file").open("wb") as file:
        sink = DecompressingWriter(file)
        tracemalloc.start()
        try:
            sink.write(stored)
            sink.finish()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (tmp_path / "file").stat().st_size == sink.length == 64 * MIB
    assert peak < 16 * MIB


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz", "zstd", "lz4"])
def test_what_is_longer_than_any_segment_does_not_fill_the_disk(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form in COMPRESS:
        stored = COMPRESS[form](bytes(8 * MIB))
    elif not shutil.which(form):
        pytest.skip(f"{form} is not installed")
    else:
        stored = subprocess.run([form, "-1", "-c"], input=bytes(8 * MIB), stdout=subprocess.PIPE, check=True).stdout
    monkeypatch.setattr(segment, "LARGEST", MIB)
    with (tmp_path / "file").open("wb") as file:
        sink = DecompressingWriter(file)
        with pytest.raises(segment.InvalidWal):
            sink.write(stored)
            sink.finish()
        sink.close()
    assert (tmp_path / "file").stat().st_size <= MIB


@pytest.mark.parametrize("content", [b"", b"1", b"1\t0/100"])
def test_a_file_shorter_than_any_magic_passes(content: bytes) -> None:
    assert received(content)[1] == content


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_compressed_file_that_ends_too_early_is_refused(form: str, share: float) -> None:
    stored = COMPRESS[form](WAL[:4096])
    end = max(8, int(len(stored) * share))
    with pytest.raises(segment.InvalidWal):
        received(stored[:end])


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
@pytest.mark.parametrize("is_apart", [False, True], ids=["with the last bytes", "on its own"])
def test_more_behind_the_end_of_a_compressed_file_is_refused(form: str, is_apart: bool) -> None:
    stored = COMPRESS[form](WAL)
    with pytest.raises(segment.InvalidWal):
        received(*((stored, b"more") if is_apart else (stored + b"more",)))


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_a_damaged_compressed_file_is_refused(form: str) -> None:
    stored = bytearray(COMPRESS[form](WAL))
    for place in range(len(stored) // 2, len(stored) // 2 + 16):
        stored[place] ^= 0xFF
    with pytest.raises(segment.InvalidWal, match="damaged"):
        received(bytes(stored))


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\x06\x00\x00sNaPpY", "snappy"),
        (b"\x85\x02\x0c\x03\xaa\xbb\xcc\xdd", "GPG"),
        (b"\x84\x5e\x03\xaa\xbb\xcc\xdd\xee", "GPG"),
        (b"-----BEGIN PGP MESSAGE-----\n", "GPG"),
    ],
)
def test_a_form_that_cannot_be_undone_is_named(start: bytes, kind: str) -> None:
    with pytest.raises(UnsupportedCompression, match=kind):
        received(start + bytes(1000))


@pytest.mark.parametrize("program", ["zstd", "lz4"])
def test_what_is_stored_as_zstd_or_lz4_is_undone_by_their_programs(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    stored = subprocess.run([program, "-c"], input=WAL, stdout=subprocess.PIPE, check=True).stdout
    with (tmp_path / "whole").open("w+b") as file:
        sink = DecompressingWriter(file)
        sink.write(stored[:1000])
        sink.write(stored[1000:])
        sink.finish()
        assert (sink.length, sink.header) == (len(WAL), WAL[: segment.LONG_HEADER.size])
    assert (tmp_path / "whole").read_bytes() == WAL
    with (tmp_path / "short").open("w+b") as file:
        sink = DecompressingWriter(file)
        sink.write(stored[:-5])
        with pytest.raises(segment.InvalidWal, match="ends too early"):
            sink.finish()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedCompression, match=program):
        received(stored)


def test_nothing_longer_than_the_largest_segment_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "LARGEST", MIB)
    with pytest.raises(segment.InvalidWal, match="longer than any"):
        received(gzip.compress(bytes(2 * MIB)))


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("first", [1, 5, 8, 100])
def test_what_arrives_is_undone_at_its_end(tmp_path: Path, form: str, first: int) -> None:
    stored = COMPRESS[form](WAL)
    arrival, written = arrived(tmp_path, stored[:first], stored[first:])
    assert written == WAL
    assert (arrival.length, arrival.header) == (len(WAL), WAL[: segment.LONG_HEADER.size])
    assert arrival.is_compressed == (form != "plain")


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_what_is_spliced_goes_behind_what_was_written(tmp_path: Path, form: str) -> None:
    stored = COMPRESS[form](WAL[:4000])
    reader, writer = os.pipe()
    os.write(writer, stored[50:])
    os.close(writer)
    with (tmp_path / "file").open("w+b") as file, closing(IncomingFile(file, tempfile.TemporaryFile)) as arrival:
        assert arrival.splice(reader, 10) is None, "as long as it is not known what it is"
        arrival.write(stored[:50])
        while arrival.splice(reader, 100):
            pass
        arrival.finish()
        assert (tmp_path / "file").read_bytes() == WAL[:4000]
    os.close(reader)


def test_what_arrives_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(segment.InvalidWal):
        arrived(tmp_path, gzip.compress(WAL)[:-20])


def test_no_more_arrives_than_the_largest_segment_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walbasin.wal.compression.LONGEST", 1000)
    with pytest.raises(segment.InvalidWal):
        arrived(tmp_path, *[bytes(300)] * 4)
