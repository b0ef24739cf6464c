"""Give the fetcher's side of a connection whatever a hostile Barman host could send."""

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walbasin.remote import gate_connection, ssh
from walbasin.remote.errors import FetchError, NotInArchive
from walbasin.remote.gate_connection import GateConnection
from walbasin.remote.ssh import EventLoop, Remote
from walbasin.wal import compression, protocol
from walbasin.wal.compression import IncomingFile

OPENING = protocol.Opening("angus", ("gzip",))
KINDS = (b"D", b".", b"A", b"E")


class Handler:
    """Request a file, and record what comes."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"{number:024X}"
        self.file: BinaryIO = (folder / self.name).open("w+b")
        self.incoming = IncomingFile(self.file, tempfile.TemporaryFile)
        self.begun = 0
        self.ends: list[Exception | None] = []

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


def whole_replies(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return (last kind, content) of each whole reply before the first bad frame."""
    _, greeting, data = data.partition(b"barman-wal-gate 1 ready\n")
    found = []
    content = b""
    while greeting and len(data) >= 9:
        kind, length = struct.unpack_from(">cQ", data)
        limit = {b"D": compression.LONGEST, b"E": protocol.LONGEST_ERROR}.get(kind, 0)
        if kind not in KINDS or length > limit or len(data) < 9 + length:
            break
        body, data = data[9 : 9 + length], data[9 + length :]
        if kind == b"D":
            content += body
        else:
            found.append((kind, content))
            content = b""
    return found


@pytest.fixture(scope="module")
def host_output() -> Iterator[Path]:
    """Yield a file whose content comes from the host, in place of ssh's output."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder) / "host_output"
        patch.setattr(ssh, "ssh_command", lambda *_, **__: ["cat", str(file)])
        yield file


good_frames = st.one_of(
    st.binary(max_size=3000).map(lambda content: protocol.frame(protocol.DATA, content)),
    st.binary(max_size=50).map(lambda content: protocol.frame(protocol.ERROR, content)),
    st.sampled_from([protocol.frame(protocol.END), protocol.frame(protocol.END), protocol.frame(protocol.ABSENT)]),
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
    replies = whole_replies(data)[:count]
    for request, (kind, content) in zip(requests, replies, strict=False):
        (error,) = request.ends
        if kind == protocol.END:
            assert error is None
            assert compression.detect_compression(content) or request.content() == content
        else:
            assert isinstance(error, NotInArchive if kind == protocol.ABSENT else FetchError)
    for request in requests[len(replies) :]:
        (error,) = request.ends
        assert isinstance(error, FetchError)
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
