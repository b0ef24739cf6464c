"""Give the gate's side of a connection whatever a stolen key could send.

The server runs in this process, or in one of our own, over pipes.
"""

import bz2
import contextlib
import fcntl
import gzip
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walbasin.gate import client, compressor, server
from walbasin.gate.authorized_key import AuthorizedKey
from walbasin.wal import compression, protocol

from tests.support.processes import wait_until
from tests.support.wal_builder import MIB, build_segment

NAMES = [f"00000001000000000000000{number}" for number in range(1, 4)]
HISTORY = "00000002.history"
SECRET = b"the secret of another server"
OPENING = protocol.Opening("angus", ("gzip",))
# Of a line without --key.
NO_KEY = AuthorizedKey("", "angus")


@pytest.fixture(scope="module")
def config() -> Iterator[Path]:
    """Return Barman's configuration file. The key may fetch from one of two servers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for server_name in ("angus", "berta"):
            (folder / server_name / "wals" / NAMES[0][:16]).mkdir(parents=True)
        for file in NAMES[:2]:
            (folder / "angus" / "wals" / file[:16] / file).write_bytes(build_segment(file)[:5000])
        (folder / "angus" / "wals" / HISTORY).write_bytes(b"1\t0/3000000\treason\n")
        (folder / "berta" / "wals" / NAMES[2][:16] / NAMES[2]).write_bytes(SECRET)
        (folder / "secret").write_bytes(SECRET)
        (folder / "barman.conf").write_text(f"[barman]\nbarman_home = {folder}\n[angus]\n[berta]\n")
        yield folder / "barman.conf"


def replies(config: Path, sent: bytes, opening: protocol.Opening = OPENING) -> list[tuple[bytes, bytes]]:
    """Send bytes to the gate, and return the frames (kind, content) of its replies.

    Asserts that the replies are frames.
    """
    request, send = os.pipe()
    os.write(send, sent)  # what fits in a pipe
    os.close(send)
    with tempfile.TemporaryFile() as output, pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "STDIN", request)
        patch.setattr(client, "STDOUT", output.fileno())
        server.Server(opening._replace(config=str(config)), NO_KEY).run()
        os.close(request)
        output.seek(0)
        data = output.read()
    greeting, data = data[: len(protocol.GREETING) + 1], data[len(protocol.GREETING) + 1 :]
    assert greeting == protocol.GREETING + b"\n"
    frames = []
    while data:
        kind, length = struct.unpack_from(">cQ", data)
        assert len(data) >= 9 + length
        frames.append((kind, data[9 : 9 + length]))
        data = data[9 + length :]
    return frames


def test_file_that_only_barman_can_undo(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that the archive has it before Barman is asked, where the folders tell."""
    monkeypatch.setenv("PATH", "")
    name = "000000010000000000000009"
    (config.parent / "angus" / "wals" / name[:16] / name).write_bytes(b"what a filter has made of it")
    asked = [kind for kind, _ in replies(config, f"{name}\n".encode())]
    assert asked == [protocol.FOUND, protocol.DATA, protocol.ERROR]
    asked = [kind for kind, _ in replies(config.parent / "none.conf", f"{name}\n".encode())]
    assert asked == [protocol.DATA, protocol.ERROR]


@pytest.fixture
def filtered(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a configuration with this filter for the archive.

    Its segments are not compressed, but for four bytes before them.
    """
    folder = tmp_path / "angus" / "wals" / NAMES[0][:16]
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(b"WALX" + build_segment(name, size=MIB))

    def configure(command: str) -> Path:
        file = tmp_path / "barman.conf"
        settings = f"compression = custom\ncustom_decompression_filter = {command}\n"
        file.write_text(f"[barman]\nbarman_home = {tmp_path}\n[angus]\n{settings}")
        return file

    return configure


def test_custom_filter(filtered: Callable[[str], Path]) -> None:
    data, end = replies(filtered("tail -c +5"), f"{NAMES[0]}\n".encode())
    assert data == (protocol.DATA, build_segment(NAMES[0], size=MIB))
    assert end == (protocol.END, b"")


def test_slow_custom_filter(filtered: Callable[[str], Path]) -> None:
    """Say that the archive has it, before anything comes, and that the work goes on."""
    found, *signs, data, end = replies(filtered("sleep 1; tail -c +5"), f"{NAMES[0]}\n".encode())
    assert found == (protocol.FOUND, b"")
    assert signs
    assert set(signs) == {(protocol.DATA, b"")}
    assert (data[1], end) == (build_segment(NAMES[0], size=MIB), (protocol.END, b""))


def test_failing_custom_filter(
    filtered: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask Barman, tell why, and do not try the filter for each file anew."""
    logged: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _, text: logged.append(text))
    monkeypatch.setenv("PATH", "")
    asked = "".join(f"{name}\n" for name in NAMES).encode()
    frames = replies(filtered(f"echo >>{tmp_path}/runs; false"), asked)
    assert [kind for kind, _ in frames] == 3 * [protocol.FOUND, protocol.DATA, protocol.ERROR]
    reason = "angus: custom_decompression_filter brings no WAL: status 1; serving through barman get-wal, slowly"
    assert logged == [reason]
    assert (tmp_path / "runs").read_text() == "\n"


def test_hanging_custom_filter(filtered: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Say whose fault it is."""
    monkeypatch.setattr("walbasin.gate.child.SILENCE_LIMIT", 1)
    *_, (kind, text) = replies(filtered("sleep 60"), f"{NAMES[0]}\n".encode())
    assert kind == protocol.ERROR
    assert text == b"custom_decompression_filter: /bin/sh has sent nothing for 1 seconds"


good_lines = st.sampled_from([name.encode() for name in [*NAMES, HISTORY]])
lines = st.one_of(
    good_lines,
    st.binary(max_size=100),
    st.sampled_from([b"../secret", b"/etc/passwd", b"../../berta/wals/" + NAMES[2].encode(), b"\0", b"--help", b""]),
    st.tuples(good_lines, st.binary(max_size=4)).map(b"".join),
    st.tuples(st.binary(max_size=4), good_lines).map(b"".join),
)


@settings(max_examples=300)
@given(requests=st.lists(lines, max_size=8), rest=st.binary(max_size=60))
def test_arbitrary_requests(config: Path, requests: list[bytes], rest: bytes) -> None:
    sent = b"".join(line + b"\n" for line in requests) + rest.replace(b"\n", b"")
    *expected, _ = sent.split(b"\n")
    given = replies(config, sent)
    for line in expected:
        kind, content = given.pop(0)
        name = line.decode("latin-1")
        if name in (*NAMES[:2], HISTORY):
            folder = config.parent / "angus" / "wals"
            stored = (folder / name if name == HISTORY else folder / name[:16] / name).read_bytes()
            assert (kind, content) == (protocol.DATA, stored)
            assert given.pop(0) == (protocol.END, b"")
        elif kind == protocol.ABSENT:
            assert content == b""
        else:
            assert kind == protocol.ERROR
            assert SECRET not in content
            assert content.count(b"\n") == 0
            assert len(content) <= protocol.LONGEST_ERROR
    assert given in ([], [(protocol.ERROR, b"a request without an end")])


def test_log(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log the first refusal inside a connection, and how it went at its end."""
    logged: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _, text: logged.append(text))
    monkeypatch.setenv("SSH_CONNECTION", "10.1.2.3 40000 10.1.2.4 22")
    lines = [b"../../../etc/passwd", b"\x1b]0;title\x07", NAMES[0].encode(), HISTORY.encode(), NAMES[2].encode()]
    request, send = os.pipe()
    os.write(send, b"".join(line + b"\n" for line in lines))
    os.close(send)
    with tempfile.TemporaryFile() as output:
        monkeypatch.setattr(server, "STDIN", request)
        monkeypatch.setattr(client, "STDOUT", output.fileno())
        assert server.run(OPENING._replace(config=str(config)), NO_KEY) == 0
    os.close(request)
    assert logged == [
        "refused inside a connection from 10.1.2.3: '../../../etc/passwd' is no name of a WAL or history file",
        "10.1.2.3: sent 2 files of server angus, 5019 bytes; 1 not in the archive, 0 errors, 2 requests refused",
    ]


@contextlib.contextmanager
def gate(config: Path, change: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a gate of its own, after this statement."""
    code = (
        "import sys; sys.path.insert(0, 'files')\n"
        "from walbasin.gate import authorized_key, child, client, server\nfrom walbasin.wal import protocol\n"
        f"{change}\n"
        f"server.run(protocol.Opening('angus', (), config={str(config)!r}), authorized_key.AuthorizedKey('', 'angus'))"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout
    assert process.stdout.readline() == protocol.GREETING + b"\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def short_limit_gate(config: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a gate that waits for one second instead of minutes."""
    with gate(config, "child.SILENCE_LIMIT = client.TIME_LIMIT = server.IDLE_LIMIT = 1") as process:
        yield process


def test_slow_request(short_limit_gate: "subprocess.Popen[bytes]") -> None:
    assert short_limit_gate.stdin
    started = time.monotonic()
    with pytest.raises(BrokenPipeError):
        while time.monotonic() - started < 10:
            short_limit_gate.stdin.write(b"0")
            time.sleep(0.05)
    assert short_limit_gate.wait(timeout=30) == 0


def test_unread_reply(short_limit_gate: "subprocess.Popen[bytes]", config: Path) -> None:
    file = config.parent / "angus" / "wals" / NAMES[2][:16] / NAMES[2]
    file.write_bytes(bytes(MIB))
    assert short_limit_gate.stdin
    short_limit_gate.stdin.write(NAMES[2].encode() + b"\n")
    assert short_limit_gate.wait(timeout=10) == 0
    file.unlink()


def test_size_of_pipe(config: Path) -> None:
    """The pipe to sshd is large while a file is sent, and not while nothing is."""
    file = config.parent / "angus" / "wals" / NAMES[2][:16] / NAMES[2]
    file.write_bytes(build_segment(NAMES[2], size=MIB))
    with gate(config, "server.REST = 0.1") as process:
        assert process.stdin and process.stdout
        pipe = process.stdout.fileno()

        def has_size(size: int) -> bool:
            return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) == size

        process.stdin.write(NAMES[2].encode() + b"\n")
        wait_until(lambda: has_size(client.SMALL), "a larger pipe", step=0.01)
        data = b""
        while not data.endswith(protocol.frame(protocol.END)):
            data += os.read(pipe, MIB)
        wait_until(lambda: has_size(client.AT_REST), "a pipe at rest", step=0.01)
    assert file.read_bytes() in data
    file.unlink()


class SlowLink:
    """Have the gate compress from a byte on, whatever it measures."""

    def __init__(self, _worthwhile: float) -> None:
        self.plain = 0
        self.compressed = 0

    def begin_file(self) -> None:
        self.plain = 0

    def should_compress(self) -> bool:
        return self.plain >= 2 * MIB

    def note_plain(self, count: int, *, is_end: bool) -> None:
        assert not is_end
        self.plain += count

    def begin_compressed(self) -> None: ...

    def note_compressed(self, count: int) -> None:
        self.compressed = count

    def end_file(self, length: int) -> None:
        assert self.plain + self.compressed == length


@pytest.fixture
def whole_segment(config: Path) -> Iterator[bytes]:
    """Put a whole segment of 4 MiB into the archive, and return its content."""
    content = build_segment(NAMES[2], size=4 * MIB)
    file = config.parent / "angus" / "wals" / NAMES[2][:16] / NAMES[2]
    file.write_bytes(content)
    yield content
    file.unlink()


DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "bzip2": bz2.decompress,
    "zstd": lambda data: subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout,
}


@pytest.mark.parametrize("accepts", [("gzip",), ("gzip", "zstd")])
def test_compressed_rest(config: Path, whole_segment: bytes, accepts: tuple[str, ...]) -> None:
    opening = OPENING._replace(accepts=accepts, compression=protocol.ADAPTIVE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "Link", SlowLink)
        frames = replies(config, f"{NAMES[2]}\n{HISTORY}\n".encode(), opening)
    rest = frames.index((protocol.REST, b""))
    end = frames.index((protocol.END, b""))
    plain = b"".join(content for _, content in frames[:rest])
    assert plain == whole_segment[: 2 * MIB]
    compressed = b"".join(content for _, content in frames[rest + 1 : end])
    assert DECOMPRESS[accepts[-1]](compressed) == whole_segment[2 * MIB :]
    assert frames[end + 1 :] == [(protocol.DATA, b"1\t0/3000000\treason\n"), (protocol.END, b"")]


@pytest.mark.parametrize(
    ("asked", "accepts", "comes"),
    [
        ("", ("gzip", "zstd"), ""),
        ("gzip", ("gzip", "zstd"), "gzip"),
        ("bzip2", ("gzip", "zstd"), "bzip2"),
        ("zstd", ("gzip", "zstd"), "zstd"),
        ("zstd", ("gzip",), "gzip"),
        ("zstd", (), ""),
        ("auto", (), ""),
    ],
)
def test_compression_asked_for(
    config: Path, whole_segment: bytes, asked: str, accepts: tuple[str, ...], comes: str
) -> None:
    opening = OPENING._replace(accepts=accepts, compression=asked)
    *pieces, end = replies(config, f"{NAMES[2]}\n".encode(), opening)
    assert end == (protocol.END, b"")
    assert {kind for kind, _ in pieces} == {protocol.DATA}
    content = b"".join(content for _, content in pieces)
    assert compression.detect_compression(content) == comes
    assert DECOMPRESS.get(comes, bytes)(content) == whole_segment


def test_failing_compressor(config: Path, whole_segment: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that it failed, and send the next file plain."""
    monkeypatch.setitem(compressor.PROGRAMS, "gzip", ["false"])
    opening = OPENING._replace(compression=protocol.ZSTD)
    first, *others = replies(config, 2 * f"{NAMES[2]}\n".encode(), opening)
    assert first == (protocol.ERROR, b"gzip ended with status 1")
    assert others == [(protocol.DATA, whole_segment), (protocol.END, b"")]
