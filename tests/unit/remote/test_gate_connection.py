"""Give the fetcher's side of a connection whatever a hostile Barman host could send."""

import gzip
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walbasin.remote import gate_connection, ssh
from walbasin.remote.errors import ConnectionLost, FetchError, NotInArchive
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import GateConnection
from walbasin.remote.ssh import Remote
from walbasin.wal import compression, protocol
from walbasin.wal.incoming_file import IncomingFile
from walbasin.wal.segment import InvalidWal

OPENING = protocol.Opening("angus", ("gzip",))
# Bytes of a file: some pieces of what the test makes fit, and many do not.
LONGEST = 5000
LONGEST_ARRIVAL = compression.longest_compressed(LONGEST)
KINDS = (b"D", b"F", b".", b"A", b"E")


class Handler:
    """Request a file, and record what comes."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"{number:024X}"
        self.file: BinaryIO = (folder / self.name).open("w+b")
        self.incoming = IncomingFile(self.file, tempfile.TemporaryFile, LONGEST)
        self.found = 0
        self.begun = 0
        self.ends: list[Exception | None] = []

    def on_found(self) -> None:
        self.found += 1

    def on_first_byte(self) -> None:
        self.begun += 1

    def on_complete(self, error: Exception | None) -> None:
        self.ends.append(error)

    def write(self, data: bytes) -> None:
        self.incoming.write(data)

    def content(self) -> bytes:
        self.incoming.finish()
        self.file.seek(0)
        return self.file.read()


def whole_replies(data: bytes, count: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return (last kind, content) of each whole reply before the first bad frame.

    The second value is True where that is one of a file that is too long. count: how
    many replies are awaited.
    """
    _, greeting, data = data.partition(b"barman-wal-gate 1 ready\n")
    found: list[tuple[bytes, bytes]] = []
    content = b""
    while greeting and len(data) >= 9 and len(found) < count:
        kind, length = struct.unpack_from(">cQ", data)
        is_plain = len(content) >= compression.MAGIC_LENGTH and not compression.detect_compression(content)
        if kind == b"D" and len(content) + length > (LONGEST if is_plain else LONGEST_ARRIVAL):
            return found, True
        limit = {b"D": length, b"E": protocol.LONGEST_ERROR}.get(kind, 0)
        if kind not in KINDS or length > limit or len(data) < 9 + length:
            break
        body, data = data[9 : 9 + length], data[9 + length :]
        if kind == b"D":
            content += body
        elif kind != b"F":
            found.append((kind, content))
            content = b""
    return found, False


def is_refused(content: bytes) -> bool:
    """Return whether a content is longer than the file may be."""
    return len(content) > LONGEST and not compression.detect_compression(content)


@pytest.fixture(scope="module")
def host_output() -> Iterator[Path]:
    """Yield a file whose content comes from the host, in place of ssh's output."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder) / "host_output"
        patch.setattr(ssh, "ssh_command", lambda *_, **__: ["cat", str(file)])
        yield file


good_frames = st.one_of(
    st.binary(max_size=4000).map(lambda content: protocol.frame(protocol.DATA, content)),
    st.binary(max_size=50).map(lambda content: protocol.frame(protocol.ERROR, content)),
    st.sampled_from([protocol.frame(kind) for kind in (protocol.END, protocol.END, protocol.ABSENT, protocol.FOUND)]),
)
bad_frames = st.one_of(
    st.builds(struct.pack, st.just(">cQ"), st.sampled_from([*KINDS, b"X", b"\0"]), st.integers(0, 2**64 - 1)),
    st.binary(max_size=40),
)
openings = st.sampled_from(
    [protocol.GREETING + b"\n", b"Welcome!\n" + protocol.GREETING + b"\n", b"barman-wal-gate 2 ready\n"]
)


@settings(max_examples=200)
@given(
    beginning=st.one_of(openings, openings, st.binary(max_size=40)),
    frames=st.lists(st.one_of(good_frames, good_frames, good_frames, bad_frames), max_size=12),
    count=st.integers(0, 5),
)
def test_arbitrary_replies(host_output: Path, beginning: bytes, frames: list[bytes], count: int) -> None:
    data = beginning + b"".join(frames)
    host_output.write_bytes(data)
    lost: list[Exception] = []
    requests = [Handler(number, host_output.parent) for number in range(count)]
    with EventLoop() as loop:
        connection = GateConnection(Remote("barman"), OPENING, lambda _, cause: lost.append(cause))
        loop.add(connection)
        for request in requests:
            connection.request(request)
        loop.run_until(lambda: False)
    assert len(lost) == 1
    replies, is_too_long = whole_replies(data, count)
    for request, (kind, content) in zip(requests, replies, strict=False):
        (error,) = request.ends
        if kind == protocol.END and is_refused(content):
            assert isinstance(error, InvalidWal)
        elif kind == protocol.END:
            assert error is None
            assert compression.detect_compression(content) or request.content() == content
        else:
            assert isinstance(error, NotInArchive if kind == protocol.ABSENT else FetchError)
    for request in requests[len(replies) :]:
        (error,) = request.ends
        assert isinstance(error, InvalidWal if is_too_long else (FetchError, InvalidWal))
        is_too_long = False
    for request in requests:
        request.incoming.close()
        request.file.close()


def test_endless_banner(host_output: Path) -> None:
    host_output.write_bytes(bytes(8 * gate_connection.LONGEST_BANNER))
    lost: list[Exception] = []
    with EventLoop() as loop:
        connection = GateConnection(Remote("barman"), OPENING, lambda _, cause: lost.append(cause))
        loop.add(connection)
        loop.run_until(lambda: False)
        assert len(connection._buffer) <= gate_connection.LONGEST_BANNER + gate_connection.CHUNK
    assert "said too much" in str(lost[0])


def fetch_two(folder: Path) -> list[Handler]:
    """Return two requests to the gate, after both have ended."""
    requests = [Handler(number, folder) for number in range(2)]
    with EventLoop() as loop:
        connection = GateConnection(Remote("barman"), OPENING, lambda *_: None)
        loop.add(connection)
        for request in requests:
            connection.request(request)
        loop.run_until(lambda: all(request.ends for request in requests))
    return requests


@pytest.mark.parametrize(
    ("replies", "errors"),
    [
        ("announced at once", [InvalidWal, ConnectionLost]),
        ("in pieces without end", [InvalidWal, ConnectionLost]),
        ("a little too long, then another", [InvalidWal, None]),
    ],
)
def test_too_long(host_output: Path, replies: str, errors: list[type[Exception] | None]) -> None:
    """Read no more of a file than there can be, and go on where that is possible."""
    piece = protocol.frame(protocol.DATA, bytes(4000))
    texts = {
        "announced at once": protocol.HEADER.pack(protocol.DATA, 600 << 20) + bytes(1 << 20),
        "in pieces without end": 10_000 * piece,
        "a little too long, then another": protocol.frame(protocol.DATA, bytes(8000))
        + protocol.frame(protocol.END)
        + piece
        + protocol.frame(b"."),
    }
    host_output.write_bytes(protocol.GREETING + b"\n" + texts[replies])
    requests = fetch_two(host_output.parent)
    assert [type(request.ends[0]) if request.ends[0] else None for request in requests] == errors
    for request in requests:
        assert (host_output.parent / request.name).stat().st_size <= LONGEST + 1
        request.incoming.close()
        request.file.close()


def test_file_that_barman_works_on(host_output: Path) -> None:
    """Tell once, before the file begins."""
    found, end = protocol.frame(protocol.FOUND), protocol.frame(protocol.END)
    content = protocol.frame(protocol.DATA, bytes(100))
    host_output.write_bytes(protocol.GREETING + b"\n" + 2 * found + content + found + end + content + end)
    requests = fetch_two(host_output.parent)
    assert [(request.found, request.begun, request.ends) for request in requests] == [(1, 1, [None]), (0, 1, [None])]
    for request in requests:
        request.incoming.close()
        request.file.close()


REST = protocol.frame(protocol.REST)
PLAIN = bytes(range(256)) * 8


def data(content: bytes) -> bytes:
    return protocol.frame(protocol.DATA, content)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([data(PLAIN[:1000]), REST, data(gzip.compress(PLAIN[1000:]))], PLAIN),
        (
            [data(PLAIN[:1000]), REST, data(gzip.compress(PLAIN[1000:])[:5]), data(gzip.compress(PLAIN[1000:])[5:])],
            PLAIN,
        ),
        ([REST, data(gzip.compress(PLAIN))], InvalidWal),
        ([data(gzip.compress(PLAIN)), REST, data(gzip.compress(PLAIN))], InvalidWal),
        ([data(PLAIN[:1000]), REST, REST, data(gzip.compress(PLAIN[1000:]))], InvalidWal),
        ([data(PLAIN[:1000]), REST, data(PLAIN[1000:])], InvalidWal),
        ([data(PLAIN[:1000]), REST], InvalidWal),
        ([data(PLAIN[:1000]), REST, data(gzip.compress(bytes(LONGEST)))], InvalidWal),
    ],
    ids=["", "in pieces", "of nothing", "of a compressed file", "twice", "not compressed", "empty", "too long"],
)
def test_compressed_rest(host_output: Path, frames: list[bytes], expected: bytes | type[Exception]) -> None:
    """Take the rest of a file compressed, and go on with the next file in any case."""
    end = protocol.frame(protocol.END)
    host_output.write_bytes(b"".join([protocol.GREETING, b"\n", *frames, end, data(PLAIN), end]))
    requests = fetch_two(host_output.parent)
    first, second = requests
    if isinstance(expected, bytes):
        assert (first.ends, first.content()) == ([None], expected)
    else:
        with pytest.raises(expected):
            raise first.ends[0] or AssertionError(first.content())
    assert (second.ends, second.content()) == ([None], PLAIN)
    for request in requests:
        request.incoming.close()
        request.file.close()
