"""What the standby's key can do on the Barman host: through a real sshd, a forced command and a real Barman."""

import bz2
import gzip
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .account import ME, run, start
from .barman_host import BarmanHost
from .conftest import Primary
from .standby import Standby

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
