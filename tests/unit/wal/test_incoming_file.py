"""Test how files are written that come from a Barman host."""

import gzip
import os
import select
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest
from walbasin.wal import compression, segment
from walbasin.wal.incoming_file import IncomingFile

from tests.support.compressed import COMPRESS, FORMS, store
from tests.support.wal_builder import MIB, build_segment

WAL = build_segment("000000010000000000000001")
LARGEST = segment.LARGEST


def make_incoming(file: BinaryIO, longest: int = LARGEST) -> IncomingFile:
    return IncomingFile(file, tempfile.TemporaryFile, longest)


def write_incoming(folder: Path, *chunks: bytes, longest: int = LARGEST) -> tuple[IncomingFile, bytes]:
    """Write a whole file in chunks, and return the IncomingFile and its content."""
    with (folder / "file").open("w+b") as file, closing(make_incoming(file, longest)) as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        incoming.finish()
        file.seek(0)
        return incoming, file.read()


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("first", [1, 5, 8, 100])
def test_incoming_file(tmp_path: Path, form: str, first: int) -> None:
    stored = store(form, WAL)
    incoming, written = write_incoming(tmp_path, stored[:first], stored[first:])
    assert written == WAL
    assert (incoming.length, incoming.header) == (len(WAL), WAL[: segment.LONG_HEADER.size])
    assert incoming.compression == ("" if form == "plain" else form)


@pytest.mark.parametrize("form", ["plain", "gzip"])
def test_splice(tmp_path: Path, form: str) -> None:
    stored = store(form, WAL[:4000])
    pipe, write_end = os.pipe()
    os.write(write_end, stored[50:])
    os.close(write_end)
    with (tmp_path / "file").open("w+b") as file, closing(make_incoming(file)) as incoming:
        assert incoming.splice(pipe, 10) is None, "the compression is not known yet"
        incoming.write(stored[:50])
        while incoming.splice(pipe, 100):
            pass
        incoming.finish()
        assert (tmp_path / "file").read_bytes() == WAL[:4000]
    os.close(pipe)


def test_truncated_incoming_file(tmp_path: Path) -> None:
    with pytest.raises(segment.InvalidWal):
        write_incoming(tmp_path, gzip.compress(WAL)[:-20])


@pytest.mark.parametrize(
    ("start", "most"), [(b"", MIB), (b"\x1f\x8b", compression.longest_compressed(MIB))], ids=["plain", "compressed"]
)
@pytest.mark.parametrize("way", ["write", "splice"])
def test_too_long_incoming_file(tmp_path: Path, start: bytes, most: int, way: str) -> None:
    """Refuse it having written no more than there may be, and a byte."""
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.write_bytes(start + bytes(most + 1 - len(start)))
    file, reader = kept.open("w+b"), source.open("rb")
    with file, reader, closing(IncomingFile(file, lambda: kept.open("r+b"), MIB)) as one:
        one.write(reader.read(16))
        if way == "write":
            one.write(reader.read(most - 16))
            with pytest.raises(segment.InvalidWal, match=f"such a file has {MIB} bytes at most"):
                one.write(b"x")
        else:
            pipe = subprocess.Popen(["tail", "-c", "+17", source], stdout=subprocess.PIPE)
            assert pipe.stdout is not None
            with pytest.raises(segment.InvalidWal, match=f"such a file has {MIB} bytes at most"):
                while select.select([pipe.stdout], [], [])[0]:
                    one.splice(pipe.stdout.fileno(), 1 << 30)
            pipe.stdout.close()
            pipe.wait()
    assert kept.stat().st_size <= most + 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["write", "splice"])
def test_compressed_rest(tmp_path: Path, form: str, way: str) -> None:
    """Take the rest of a plain file compressed, to the last byte that there may be."""
    half, rest = WAL[: MIB // 2], store(form, WAL[MIB // 2 :])
    with (tmp_path / "file").open("w+b") as file, closing(make_incoming(file, MIB)) as incoming:
        for content in (half, rest):
            incoming.write(content[:100])
            if way == "write":
                incoming.write(content[100:])
            else:
                with tempfile.TemporaryFile() as source:
                    source.write(content[100:])
                    source.seek(0)
                    cat = subprocess.Popen(["cat"], stdin=source, stdout=subprocess.PIPE)
                    assert cat.stdout is not None
                    while select.select([cat.stdout], [], [])[0] and incoming.splice(cat.stdout.fileno(), 1 << 30):
                        pass
                    cat.communicate()
            if content is half:
                incoming.expect_compressed_rest()
        incoming.finish()
        file.seek(0)
        assert file.read() == WAL
    assert (incoming.length, incoming.header) == (MIB, WAL[: segment.LONG_HEADER.size])
    assert incoming.compression == form


@pytest.mark.parametrize("form", FORMS)
def test_no_space(form: str, tmp_path: Path) -> None:
    """Look for space while the file grows, and write no more where there is none."""
    room = MIB // 2
    kept = tmp_path / "file"

    def check_space(length: int) -> None:
        if kept.stat().st_size + length > room:
            raise OSError(28, os.strerror(28))

    stored = store(form, os.urandom(1000) + bytes(8 * MIB))

    def receive(incoming: IncomingFile) -> None:
        for start in range(0, len(stored), 100_000):
            incoming.write(stored[start : start + 100_000])
        incoming.finish()

    with kept.open("w+b") as file:
        incoming = IncomingFile(file, tempfile.TemporaryFile, 16 * MIB, check_space)
        with closing(incoming), pytest.raises(OSError, match="No space left"):
            receive(incoming)
    assert kept.stat().st_size <= room
