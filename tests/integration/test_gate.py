"""Test what the standby's key can do on the Barman host.

sshd, the forced command and Barman are real.
"""

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
from tests.support.processes import ME, processes, run, start, wait_until
from tests.support.standby import Standby

from .conftest import Primary

SYSTEM = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


class RemoteOutput:
    """Run a remote command through ssh, and hold its output and exit status."""

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
    ("remote_command", "decompress"),
    [
        ("barman get-wal 'angus' '{name}'", unchanged),
        ("barman get-wal --keep-compression 'angus' '{name}'", unchanged),
        ("barman get-wal --gzip 'angus' '{name}'", gzip.decompress),
        ("barman get-wal --bzip2 'angus' '{name}'", bz2.decompress),
        ("barman get-wal --partial 'angus' '{name}'", unchanged),
        ("barman get-wal --gzip --partial 'angus' '{name}'", gzip.decompress),
    ],
)
def test_released_client_commands(
    barman: BarmanHost, angus: Primary, remote_command: str, decompress: Callable[[bytes], bytes]
) -> None:
    name = angus.segments[4]
    output = RemoteOutput(barman, remote_command.format(name=name))
    assert output.status == 0
    assert decompress(output.stdout) == barman.file("angus", name).read_bytes()


def test_released_client_peek_and_test(barman: BarmanHost, angus: Primary) -> None:
    output = RemoteOutput(barman, f"barman get-wal --peek '3' 'angus' '{angus.segments[4]}'")
    assert output.stdout.decode().split() == angus.segments[4:7]
    output = RemoteOutput(barman, "barman get-wal --test 'angus' 'dummy_wal_name'")
    assert (output.status, output.stdout) == (0, b"Ready to retrieve WAL files from the server angus\n")


def test_missing_file_message(barman: BarmanHost, angus: Primary) -> None:
    for key in ("gate", "stock"):
        output = RemoteOutput(barman, "barman get-wal 'angus' '00000002.history'", key=key)
        assert (output.status, output.stdout) == (1, b"")
        assert "WAL file '00000002.history' not found in server 'angus'" in output.stderr


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
def test_refused_commands(barman: BarmanHost, angus: Primary, words: list[str], cause: str) -> None:
    output = RemoteOutput(barman, *(word.format(name=angus.segments[4]) for word in words), stdin=b"echo here\n")
    assert (output.status, output.stdout) == (3, b"")
    assert cause in output.stderr
    assert barman.requests() == []


def test_shell_with_ordinary_key(barman: BarmanHost) -> None:
    """Prove that the test above can fail: an ordinary key opens a shell."""
    assert b"here" in RemoteOutput(barman, key="stock", stdin=b"echo here\n").stdout


@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_no_sftp(barman: BarmanHost, key: str, is_open: bool) -> None:
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
    """Return a port that listens, which a forwarding would reach."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        yield listener.getsockname()[1]


@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_no_port_forwarding(barman: BarmanHost, service: int, key: str, is_open: bool) -> None:
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
def test_no_terminal(barman: BarmanHost, key: str, is_open: bool) -> None:
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
def stolen_key(barman: BarmanHost) -> Iterator[paramiko.Transport]:
    """Return a connection with the gate's key, which can send any bytes."""
    with paramiko.Transport(("127.0.0.1", barman.port)) as transport:
        transport.start_client(timeout=30)
        transport.auth_publickey(ME, paramiko.Ed25519Key.from_private_key_file(str(barman.client / "gate")))
        yield transport


def output_of(channel: paramiko.Channel) -> tuple[bytes, bytes]:
    """Return all that a channel brings until its end: stdout and stderr."""
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


@pytest.mark.parametrize("remote_command", HOSTILE.values(), ids=HOSTILE)
def test_hostile_commands(
    stolen_key: paramiko.Transport, barman: BarmanHost, angus: Primary, remote_command: bytes
) -> None:
    channel = stolen_key.open_session(timeout=30)
    channel.exec_command(remote_command.replace(b"{name}", angus.segments[4].encode()))
    stdout, stderr = output_of(channel)
    assert stdout == b""
    assert (channel.recv_exit_status(), stderr.count(b"\n")) == (3, 1)
    assert stderr.startswith(b"barman-wal-gate: refused: ")
    assert len(stderr) < 1000
    assert barman.requests() == []


@pytest.mark.parametrize(
    "remote_command",
    [b"barman get-wal angus {name}\0; id", b"\0id", 200_000 * b"A", 3_000_000 * b"A"],
    ids=["NUL", "NUL first", "more than a variable can have", "megabytes"],
)
def test_commands_refused_by_sshd(
    stolen_key: paramiko.Transport, barman: BarmanHost, angus: Primary, remote_command: bytes
) -> None:
    channel = stolen_key.open_session(timeout=30)
    with contextlib.suppress(paramiko.SSHException, EOFError, ConnectionError):
        channel.exec_command(remote_command.replace(b"{name}", angus.segments[4].encode()))
    assert output_of(channel)[0] == b""
    assert channel.recv_exit_status() != 0
    assert barman.requests() == []


def test_endless_request(stolen_key: paramiko.Transport) -> None:
    """End a connection whose request has no end."""
    channel = stolen_key.open_session(timeout=30)
    channel.settimeout(30)
    channel.exec_command(protocol.opening_line(protocol.Opening("angus", ("gzip",))))
    with contextlib.suppress(OSError):
        for _ in range(64):
            channel.sendall(65536 * b"A")
    stdout, _ = output_of(channel)
    assert stdout == protocol.GREETING + b"\n" + protocol.frame(protocol.ERROR, b"a request without an end")


def test_no_client_variables(stolen_key: paramiko.Transport, barman: BarmanHost) -> None:
    channel = stolen_key.open_session(timeout=30)
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
    """Return the /proc folders of all gates that run."""
    program = f"{barman.folder}/lib/walbasin/__main__.py\0gate\0".encode()
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if program in (each / "cmdline").read_bytes():
                found.append(each)
    return found


@pytest.mark.parametrize("way", [["-O"], ["-s"]], ids=["the old way", "through sftp"])
@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_no_scp(barman: BarmanHost, workdir: Path, key: str, is_open: bool, way: list[str]) -> None:
    config: list[str | Path] = ["-F", barman.client / "ssh_config", "-o", f"User={ME}"]
    for words in ([f"{key}:/etc/passwd", workdir / "taken"], ["/etc/passwd", f"{key}:{workdir}/given"]):
        done = subprocess.run(
            ["scp", "-q", *way, *config, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode == 0) == is_open
    assert [(workdir / file).exists() for file in ("taken", "given")] == [is_open, is_open]


@pytest.fixture
def agent(workdir: Path, barman: BarmanHost) -> Iterator[Path]:
    """Run an ssh-agent, and return its socket."""
    path = workdir / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    wait_until(path.exists, "the agent")
    yield path
    process.terminate()
    process.wait(timeout=10)


@pytest.mark.parametrize(("key", "is_open"), [("gate", False), ("stock", True)])
def test_no_agent_forwarding(barman: BarmanHost, agent: Path, key: str, is_open: bool) -> None:
    opening = protocol.opening_line(protocol.Opening("angus", ("gzip",)))
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
            opening if key == "gate" else "env; read x",
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


def test_connection_limit(barman: BarmanHost, angus: Primary) -> None:
    """Connect 64 times at once, beside commands that wait for Barman."""
    name = angus.segments[4]
    barman.hold(name)
    ssh: list[str | Path] = ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "-T", "gate"]
    opening = protocol.opening_line(protocol.Opening("angus", ("gzip",)))
    started: list[subprocess.Popen[bytes]] = []

    def connect(remote_command: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([*ssh, remote_command], stdin=pipe, stdout=pipe, stderr=pipe, env=SYSTEM))
        return started[-1]

    def connect_all(remote_command: str, count: int) -> tuple[list[subprocess.Popen[bytes]], ...]:
        """Return those that are served, and those that are refused."""
        served: list[subprocess.Popen[bytes]] = []
        refused: list[subprocess.Popen[bytes]] = []
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                process = connect(remote_command)
                assert process.stdout
                selector.register(process.stdout, selectors.EVENT_READ, process)
            while selector.get_map():
                ready = selector.select(60)
                assert ready, f"{len(served)} served, {len(refused)} refused"
                for key, _ in ready:
                    selector.unregister(key.fd)
                    (served if os.read(key.fd, 4096) else refused).append(key.data)
        return served, refused

    try:
        _, refused_commands = connect_all(f"barman get-wal angus {name}", 33)
        assert len(refused_commands) == 1
        served, refused = connect_all(opening, 64)
        assert (len(served), len(refused)) == (32, 32), "commands that hang take no place of a connection"
        for process, kind in [(process, b"connection") for process in refused] + [(refused_commands[0], b"command")]:
            assert process.wait(timeout=30) == 3
            assert process.stderr
            message = process.stderr.read()
            assert b"this key has 32 %ss already" % kind in message
            assert message.count(b"\n") == 1
        served[0].kill()
        served[0].communicate()
        wait_until(lambda: bool(connect_all(opening, 1)[0]), "a free slot")
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_hung_command(barman: BarmanHost, angus: Primary) -> None:
    """End a Barman that waits, when its client has given up."""
    name = angus.segments[4]
    barman.hold(name)
    words: list[str | Path] = [
        "ssh",
        "-F",
        barman.client / "ssh_config",
        "-l",
        ME,
        "gate",
        f"barman get-wal angus {name}",
    ]
    client = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=SYSTEM)
    try:
        assert client.stdout
        assert client.stdout.read(1)
        assert barmans(barman)
    finally:
        client.kill()
        client.communicate()
    wait_until(lambda: not barmans(barman) and not gates(barman), "the end of Barman and its gate")


def barmans(barman: BarmanHost) -> list[str]:
    """Return the processes of the wrapper around Barman."""
    return processes([barman.folder / "bin" / "barman"])


@pytest.fixture
def authorized_keys(barman: BarmanHost) -> Iterator[Path]:
    """Return a file that a test may change."""
    text = barman.authorized_keys.read_text()
    yield barman.authorized_keys
    barman.authorized_keys.write_text(text)


@pytest.mark.parametrize("way", ["line removed", "server removed", "file removed"])
def test_key_taken_away(
    stolen_key: paramiko.Transport, authorized_keys: Path, barman: BarmanHost, angus: Primary, way: str
) -> None:
    """Serve nothing more over a connection that was opened before."""
    opened = stolen_key.open_session(timeout=30)
    opened.settimeout(30)
    opened.exec_command(protocol.opening_line(protocol.Opening("angus", ("gzip",))))
    request = protocol.request_line("0000000F.history")
    answer = protocol.frame(protocol.ABSENT)
    for expected in (protocol.GREETING + b"\n", answer, answer):
        assert opened.makefile("rb").read(len(expected)) == expected
        opened.sendall(request)
    assert opened.makefile("rb").read(len(answer)) == answer
    if way == "file removed":
        authorized_keys.unlink()
    else:
        line, *others = authorized_keys.read_text().splitlines(keepends=True)
        kept = [line.replace(" angus", " berta")] if way == "server removed" else []
        authorized_keys.write_text("".join(kept + others))
    opened.sendall(request)
    assert output_of(opened) == (b"", b"")
    for remote_command in (
        protocol.opening_line(protocol.Opening("angus", ("gzip",))),
        protocol.ListQuery("angus").command_line(),
        f"barman get-wal angus {angus.segments[4]}",
    ):
        channel = stolen_key.open_session(timeout=30)
        channel.exec_command(remote_command)
        stdout, stderr = output_of(channel)
        assert stdout == b""
        assert b"refused: this key fetches no WAL of server 'angus' any more" in stderr
        assert channel.recv_exit_status() == 3
    assert barman.requests() == []


@pytest.mark.parametrize("options", [[], ["-p", "2"], ["-z"], ["--keep-compression"], ["-P"], ["-t"]], ids=" ".join)
def test_stock_client_through_gate(
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


def test_gate_version(folder: Path, barman: BarmanHost) -> None:
    assert run([barman.folder / "lib" / "barman-wal-gate", "-V"], folder).startswith("barman-wal-gate ")
