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
    """Ask for a file, and note what comes."""

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


def whole_answers(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return (last kind, content) of each whole answer, up to the first nonsense."""
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
def said() -> Iterator[Path]:
    """Yield the file of what the host says, in place of ssh."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder) / "said"
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
def test_whatever_the_host_says_each_request_is_answered_once_and_never_with_something_else(
    said: Path, beginning: bytes, frames: list[bytes], count: int
) -> None:
    data = beginning + b"".join(frames)
    said.write_bytes(data)
    lost: list[Exception] = []
    requests = [Handler(number, said.parent) for number in range(count)]
    with EventLoop() as loop:
        connection = GateConnection(Remote("barman"), OPENING, lambda _, cause: lost.append(cause))
        loop.add(connection)
        for request in requests:
            connection.request(request)
        loop.run_until(lambda: False)
    assert len(lost) == 1
    answers = whole_answers(data)[:count]
    for request, (kind, content) in zip(requests, answers, strict=False):
        (error,) = request.ends
        if kind == protocol.END:
            assert error is None
            assert compression.detect_compression(content) or request.content() == content
        else:
            assert isinstance(error, NotInArchive if kind == protocol.ABSENT else FetchError)
    for request in requests[len(answers) :]:
        (error,) = request.ends
        assert isinstance(error, FetchError)
    for request in requests:
        request.file.close()


def test_what_the_host_says_without_end_is_cut_off(said: Path) -> None:
    said.write_bytes(bytes(8 * gate_connection.LONGEST_BANNER))
    lost: list[Exception] = []
    with EventLoop() as loop:
        connection = GateConnection(Remote("barman"), OPENING, lambda _, cause: lost.append(cause))
        loop.add(connection)
        loop.run_until(lambda: False)
        assert len(connection._buffer) <= gate_connection.LONGEST_BANNER + gate_connection.CHUNK
    assert "said too much" in str(lost[0])
