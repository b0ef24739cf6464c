"""What the standby's key can do on the Barman host: through a real sshd, a forced command and a real Barman."""

import bz2
import contextlib
import gzip
import os
import selectors
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from walbasin.wal import protocol

from tests.support.barman_host import BarmanHost
from tests.support.processes import ME, run, start, wait_until
from tests.support.standby import Standby

from .conftest import Primary

SYSTEM = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


class Answer:
    """What a client is given for a line."""

    def __init__(self, barman: BarmanHost, *words: str, key: str = "gate", stdin: bytes = b"") -> None:
        done = subprocess.run(
            ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "-q", "-T", key, *words],
            input=stdin,
            capture_output=True,
            env=SYSTEM,
            timeout=60,
            check=False,
        )
        self.status = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr.decode()


def unchanged(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize(
    ("line", "undo"),
    [
        ("barman get-wal 'angus' '{name}'", unchanged),
        ("barman get-wal --keep-compression 'angus' '{name}'", unchanged),
        ("barman get-wal --gzip 'angus' '{name}'", gzip.decompress),
        ("barman get-wal --bzip2 'angus' '{name}'", bz2.decompress),
        ("barman get-wal --partial 'angus' '{name}'", unchanged),
        ("barman get-wal --gzip --partial 'angus' '{name}'", gzip.decompress),
    ],
)
def test_the_lines_of_released_clients_are_served_byte_for_byte(
    barman: BarmanHost, angus: Primary, line: str, undo: Callable[[bytes], bytes]
) -> None:
    name = angus.segments[4]
    answer = Answer(barman, line.format(name=name))
    assert answer.status == 0
    assert undo(answer.stdout) == barman.file("angus", name).read_bytes()


def test_released_clients_look_ahead_and_test(barman: BarmanHost, angus: Primary) -> None:
    answer = Answer(barman, f"barman get-wal --peek '3' 'angus' '{angus.segments[4]}'")
    assert answer.stdout.decode().split() == angus.segments[4:7]
    answer = Answer(barman, "barman get-wal --test 'angus' 'dummy_wal_name'")
    assert (answer.status, answer.stdout) == (0, b"Ready to retrieve WAL files from the server angus\n")


def test_what_is_missing_is_answered_in_barmans_own_words(barman: BarmanHost, angus: Primary) -> None:
    for key in ("gate", "stock"):
        answer = Answer(barman, "barman get-wal 'angus' '00000002.history'", key=key)
        assert (answer.status, answer.stdout) == (1, b"")
        assert "WAL file '00000002.history' not found in server 'angus'" in answer.stderr


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ([], "opens no shell"),
        (["id"], "only barman get-wal"),
        (["barman list-servers"], "only barman get-wal"),
        (["barman get-wal angus {name}; id"], "is not served here"),
        (["barman get-wal angus $(id)"], "no name of a WAL"),
        (["barman get-wal angus {name}\nid"], "characters"),
        (["barman get-wal angus ../../../../../../etc/passwd"], "no name of a WAL"),
        (["barman get-wal berta {name}"], "server 'berta'"),
        (["barman get-wal -o /tmp angus {name}"], "option '-o' is not served"),
        (["barman --config /tmp/evil.conf get-wal angus {name}"], "configuration '/tmp/evil.conf'"),
    ],
)
def test_everything_else_is_refused_with_the_reason(
    barman: BarmanHost, angus: Primary, words: list[str], cause: str
) -> None:
    answer = Answer(barman, *(word.format(name=angus.segments[4]) for word in words), stdin=b"echo here\n")
    assert (answer.status, answer.stdout) == (3, b"")
    assert cause in answer.stderr
    assert barman.requests() == []


def test_an_ordinary_key_would_have_opened_a_shell(barman: BarmanHost) -> None:
    """So that the test above can fail."""
    assert b"here" in Answer(barman, key="stock", stdin=b"echo here\n").stdout


@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_there_is_no_sftp(barman: BarmanHost, key: str, is_open: bool) -> None:
    done = subprocess.run(
        ["sftp", "-F", barman.client / "ssh_config", "-o", f"User={ME}", "-b", "-", key],
        input=b"ls /etc/passwd\n",
        capture_output=True,
        env=SYSTEM,
        timeout=60,
        check=False,
    )
    assert (b"/etc/passwd" in done.stdout.replace(b"sftp> ls /etc/passwd", b"")) == is_open
    assert (done.returncode == 0) == is_open


@pytest.fixture
def service() -> Iterator[int]:
    """A port that a forwarding would reach; whoever connects is greeted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        yield listener.getsockname()[1]


@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_no_port_is_forwarded(barman: BarmanHost, service: int, key: str, is_open: bool) -> None:
    process = subprocess.Popen(
        ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "-W", f"127.0.0.1:{service}", key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=SYSTEM,
    )
    try:
        if is_open:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=3)
        else:
            assert process.wait(timeout=30) == 255
            assert process.stderr
            assert b"administratively prohibited" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_there_is_no_terminal(barman: BarmanHost, key: str, is_open: bool) -> None:
    done = subprocess.run(
        ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "-tt", key, "tty"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=SYSTEM,
        timeout=60,
        check=False,
    )
    assert (b"/dev/" in done.stdout) == is_open
    assert (b"PTY allocation request failed" in done.stderr) != is_open


@pytest.fixture
def thief(barman: BarmanHost) -> Iterator[paramiko.Transport]:
    """A client that sends whatever it likes; it has got hold of the key."""
    with paramiko.Transport(("127.0.0.1", barman.port)) as transport:
        transport.start_client(timeout=30)
        transport.auth_publickey(ME, paramiko.Ed25519Key.from_private_key_file(str(barman.client / "gate")))
        yield transport


def said_to(channel: paramiko.Channel) -> tuple[bytes, bytes]:
    """All that comes out of a channel until its end, on stdout and on stderr."""
    channel.settimeout(30)
    return channel.makefile("rb").read(), channel.makefile_stderr("rb").read()


HOSTILE = {
    "another line": b"barman get-wal angus {name}\nid",
    "carriage return": b"barman get-wal angus {name}\rid",
    "quotes": b"barman get-wal 'angus {name}",
    "closed quotes": b"barman get-wal 'angus' '{name}'';id;'",
    "backquotes": b"barman get-wal angus `id`",
    "a variable": b"barman get-wal angus $HOME",
    "a pipe": b"barman get-wal angus {name} | id",
    "a file": b"barman get-wal angus {name} >/tmp/here",
    "an absolute path": b"barman get-wal angus /etc/passwd",
    "up": b"barman get-wal ../angus {name}",
    "an option for a server": b"barman get-wal -- --help {name}",
    "two options": b"barman get-wal --output-directory=/tmp angus {name}",
    "abbreviated": b"barman get-wal --output=/tmp angus {name}",
    "another program's name": b"/bin/barman get-wal angus {name}",
    "another command": b"barman delete angus latest",
    "not UTF-8": b"barman get-wal \xff\xfe {name}",
    "a terminal's": b"\x1b]0;id\x07",
    "an opening for another server": b"barman-wal-gate 1 berta gzip '' ''",
    "an opening for another configuration": b"barman-wal-gate 1 angus gzip '' /tmp/evil.conf",
    "an opening of another protocol": b"barman-wal-gate 2 angus gzip '' ''",
    "half an opening": b"barman-wal-gate 1 angus",
    "a hundred thousand bytes": b"barman get-wal angus " + 100_000 * b"A",
    "as many options": b"barman get-wal " + 15_000 * b"--gzip " + b"angus {name}",
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_stolen_key_asks_for_is_refused_in_a_line(
    thief: paramiko.Transport, barman: BarmanHost, angus: Primary, line: bytes
) -> None:
    channel = thief.open_session(timeout=30)
    channel.exec_command(line.replace(b"{name}", angus.segments[4].encode()))
    stdout, stderr = said_to(channel)
    assert stdout == b""
    assert (channel.recv_exit_status(), stderr.count(b"\n")) == (3, 1)
    assert stderr.startswith(b"barman-wal-gate: refused: ")
    assert len(stderr) < 1000
    assert barman.requests() == []


@pytest.mark.parametrize(
    "line",
    [b"barman get-wal angus {name}\0; id", b"\0id", 200_000 * b"A", 3_000_000 * b"A"],
    ids=["NUL", "NUL first", "more than a variable can have", "megabytes"],
)
def test_what_sshd_itself_does_not_take_gets_nowhere(
    thief: paramiko.Transport, barman: BarmanHost, angus: Primary, line: bytes
) -> None:
    channel = thief.open_session(timeout=30)
    with contextlib.suppress(paramiko.SSHException, EOFError, ConnectionError):
        channel.exec_command(line.replace(b"{name}", angus.segments[4].encode()))
    assert said_to(channel)[0] == b""
    assert channel.recv_exit_status() != 0
    assert barman.requests() == []


def test_megabytes_of_requests_are_cut_off(thief: paramiko.Transport) -> None:
    """Neither a line without an end nor a flood of lines is kept."""
    channel = thief.open_session(timeout=30)
    channel.settimeout(30)
    channel.exec_command(protocol.opening_line(protocol.Opening("angus", ("gzip",))))
    with contextlib.suppress(OSError):
        for _ in range(64):
            channel.sendall(65536 * b"A")
    stdout, _ = said_to(channel)
    assert stdout == protocol.GREETING + b"\n" + protocol.frame(protocol.ERROR, b"a request without an end")


def test_the_client_sets_no_variable(thief: paramiko.Transport, barman: BarmanHost) -> None:
    channel = thief.open_session(timeout=30)
    channel.set_environment_variable("LD_PRELOAD", "/tmp/evil.so")
    channel.set_environment_variable("PYTHONPATH", "/tmp")
    channel.exec_command(protocol.opening_line(protocol.Opening("angus", ("gzip",))))
    channel.settimeout(30)
    assert channel.recv(1)
    (gate,) = gates(barman)
    variables = (gate / "environ").read_bytes().split(b"\0")
    assert any(each.startswith(b"SSH_ORIGINAL_COMMAND=") for each in variables)
    assert not any(each.startswith((b"LD_PRELOAD=", b"PYTHONPATH=")) for each in variables)
    channel.close()


def gates(barman: BarmanHost) -> list[Path]:
    """The /proc folders of all gates that are running."""
    program = f"{barman.folder}/lib/walbasin/__main__.py\0gate\0".encode()
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if program in (each / "cmdline").read_bytes():
                found.append(each)
    return found


@pytest.mark.parametrize("way", [["-O"], ["-s"]], ids=["the old way", "through sftp"])
@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_there_is_no_scp(barman: BarmanHost, place: Path, key: str, is_open: bool, way: list[str]) -> None:
    config: list[str | Path] = ["-F", barman.client / "ssh_config", "-o", f"User={ME}"]
    for words in ([f"{key}:/etc/passwd", place / "taken"], ["/etc/passwd", f"{key}:{place}/given"]):
        done = subprocess.run(
            ["scp", "-q", *way, *config, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode == 0) == is_open
    assert [(place / file).exists() for file in ("taken", "given")] == [is_open, is_open]


@pytest.fixture
def agent(place: Path, barman: BarmanHost) -> Iterator[Path]:
    """The socket of an ssh-agent."""
    path = place / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    wait_until(path.exists, "the agent")
    yield path
    process.terminate()
    process.wait(timeout=10)


@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_no_agent_is_forwarded(barman: BarmanHost, agent: Path, key: str, is_open: bool) -> None:
    line = protocol.opening_line(protocol.Opening("angus", ("gzip",)))
    process = subprocess.Popen(
        [
            "ssh",
            "-A",
            "-F",
            barman.client / "ssh_config",
            "-o",
            f"IdentityAgent={agent}",
            "-l",
            ME,
            key,
            line if key == "gate" else "env; read x",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**SYSTEM, "SSH_AUTH_SOCK": str(agent)},
    )
    try:
        assert process.stdout
        if is_open:
            assert any(line.startswith(b"SSH_AUTH_SOCK=") for line in iter(process.stdout.readline, b""))
        else:
            assert process.stdout.readline() == protocol.GREETING + b"\n"
            (gate,) = gates(barman)
            assert b"SSH_AUTH_SOCK=" not in (gate / "environ").read_bytes()
    finally:
        process.kill()
        process.communicate()


def test_a_key_has_32_connections_at_a_time(barman: BarmanHost, angus: Primary) -> None:
    """One of them is with Barman, and 63 come at once."""
    name = angus.segments[4]
    barman.hold(name)
    ssh: list[str | Path] = ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "-T", "gate"]
    line = protocol.opening_line(protocol.Opening("angus", ("gzip",)))
    started: list[subprocess.Popen[bytes]] = []

    def connect(line: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([*ssh, line], stdin=pipe, stdout=pipe, stderr=pipe, env=SYSTEM))
        return started[-1]

    try:
        with_barman = connect(f"barman get-wal angus {name}").stdout
        assert with_barman
        assert with_barman.read(1), "it has its place"
        with selectors.DefaultSelector() as selector:
            for _ in range(63):
                process = connect(line)
                assert process.stdout
                selector.register(process.stdout, selectors.EVENT_READ, process)
            served: list[subprocess.Popen[bytes]] = []
            refused: list[subprocess.Popen[bytes]] = []
            while len(served) + len(refused) < 63:
                ready = selector.select(60)
                assert ready, f"{len(served)} served, {len(refused)} refused"
                for key, _ in ready:
                    selector.unregister(key.fd)
                    answer = os.read(key.fd, 4096)
                    (served if answer else refused).append(key.data)
        assert (len(served), len(refused)) == (31, 32)
        for process in refused:
            assert process.wait(timeout=30) == 3
            assert process.stderr
            said = process.stderr.read()
            assert b"this key has 32 connections already" in said
            assert said.count(b"\n") == 1
        assert Answer(barman, "barman get-wal --test angus dummy_wal_name").status == 3
        served[0].kill()
        served[0].communicate()
        wait_until(
            lambda: Answer(barman, "barman get-wal --test angus dummy_wal_name").status == 0, "a place that became free"
        )
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("options", [[], ["-p", "2"], ["-z"], ["--keep-compression"], ["-P"], ["-t"]], ids=" ".join)
def test_the_stock_client_works_through_the_gate(
    chris: Standby, angus: Primary, barman: BarmanHost, stock_client: Path, options: list[str]
) -> None:
    name = angus.segments[4]
    spool = chris.folder / "stock_spool"
    words: list[str | Path] = [stock_client, "-U", ME, "--spool-dir", spool, *options, "gate", "angus", name]
    process = start([*words, "pg_wal/RECOVERYXLOG"], chris.data)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    if options == ["-t"]:
        assert "Ready to retrieve WAL files from the server angus" in stdout
    else:
        assert chris.delivered() == barman.file("angus", name).read_bytes()


def test_the_gate_tells_its_version(folder: Path, barman: BarmanHost) -> None:
    assert run([barman.folder / "lib" / "barman-wal-gate", "-V"], folder).startswith("barman-wal-gate ")
