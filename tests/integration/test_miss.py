"""Test files that Barman does not have, and hosts that cannot tell.

PostgreSQL takes "not in the archive" for the end of the archive.
"""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost, both_hosts
from tests.support.processes import give
from tests.support.standby import Standby

from .conftest import Primary


@both_hosts
def test_missing_segment_and_history(chris: Standby, angus: Primary, host: str) -> None:
    call = chris.fetch("0000000100000000000000F0", "-p", "3", "-s", "30", host=host)
    assert (call.status, call.stdout, len(call.lines)) == (1, "", 1)
    assert "0000000100000000000000F0" in call.stderr
    assert "not in the archive" in call.stderr
    call = chris.fetch("00000002.history", "-s", "30", host=host, destination="pg_wal/RECOVERYHISTORY")
    assert (call.status, call.stdout, call.stderr) == (1, "", "")
    assert chris.pg_wal() == []
    assert call.seconds < 20, "-s is for errors"


def test_missing_segment_asked_again(
    chris: Standby, angus: Primary, archive: Callable[..., str], barman: BarmanHost
) -> None:
    name = angus.segments[4]
    server = archive({})
    assert chris.fetch(name, "-p", "3", server=server).status == 1
    barman.put(server, name, barman.file("angus", name).read_bytes())
    assert chris.fetch(name, "-p", "3", server=server).status == 0


@pytest.mark.parametrize(
    ("host", "server", "cause"),
    [
        ("stock", "nosuch", "nosuch"),
        ("gate", "nosuch", "does not fetch WAL of server 'nosuch'"),
        ("refused", "angus", "Connection refused"),
        ("changed", "angus", "Host key verification failed"),
        ("stranger", "angus", "Permission denied"),
        ("no.such.host.invalid", "angus", "no.such.host.invalid"),
    ],
)
@pytest.mark.parametrize("signal_file", ["standby.signal", "recovery.signal"])
def test_host_errors(
    make_standby: Callable[..., Standby], angus: Primary, host: str, server: str, cause: str, signal_file: str
) -> None:
    standby = make_standby(signal_file)
    call = standby.fetch(angus.segments[4], "-p", "3", "--retry", "0", host=host, server=server)
    assert call.status == (2 if signal_file == "standby.signal" else 200)
    assert call.stdout == ""
    assert len(call.lines) == 1
    assert angus.segments[4] in call.stderr
    assert cause in call.stderr
    assert standby.pg_wal() == []


@pytest.mark.parametrize("status", [1, 2, 101, 126, 127, 143, 200, 255])
def test_foreign_exit_status(chris: Standby, angus: Primary, barman: BarmanHost, status: int) -> None:
    barman.lie("", status)
    assert chris.fetch(angus.segments[4], host="liar").status == 2
    assert chris.pg_wal() == []


def test_host_without_barman(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.lie("", 127)
    assert "barman is not in the PATH" in chris.fetch(angus.segments[4], host="liar").stderr


def test_login_message_in_place_of_wal(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.lie("Welcome to the Barman host!\n", 0)
    assert chris.fetch(angus.segments[4], host="liar").status == 3
    assert chris.fetch("00000002.history", host="liar", destination="pg_wal/RECOVERYHISTORY").status == 3
    assert chris.pg_wal() == []


@pytest.fixture
def silent_host(chris: Standby) -> Iterator[Path]:
    """Return an ssh_config for a host that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        file = chris.folder / "silent_host"
        file.write_text(f"Host *\n HostName 127.0.0.1\n Port {port}\n")
        yield give(file)


def test_silent_host(chris: Standby, angus: Primary, silent_host: Path) -> None:
    call = chris.fetch(angus.segments[4], "-p", "3", ssh_config=str(silent_host))
    assert call.status == 2
    assert 9 < call.seconds < 20
    # Later calls do not wait or sleep: a promotion makes four of them.
    for name in (angus.segments[4], "00000002.history"):
        call = chris.fetch(name, "-p", "3", "-s", "60", ssh_config=str(silent_host))
        assert call.status == 2
        assert call.seconds < 9, "the limit to connect is 10 s"
    assert "skipped, stock could not be reached" in call.stderr
    assert "s ago: ssh to stock failed: " in call.stderr, "the cause is repeated"
    assert "PostgreSQL asks whether timeline 2 exists, and goes on as if it did not" in call.stderr


def test_end_of_outage(chris: Standby, angus: Primary) -> None:
    assert chris.fetch(angus.segments[4], ssh_config="unplugged").status == 2
    assert chris.fetch(angus.segments[4]).status == 2, "the outage is remembered"
    (note,) = chris.spool.rglob("outage")
    note.write_text(str(time.monotonic() - 16))
    assert chris.fetch(angus.segments[4]).status == 0
    assert chris.spooled() == []


def test_sleep_until_promotion(chris: Standby, angus: Primary) -> None:
    call = chris.fetch(angus.segments[4], "-s", "2", host="refused")
    assert call.status == 2
    assert call.seconds >= 2
    for file in chris.spool.rglob("outage"):
        file.unlink()
    process = chris.start(angus.segments[4], "-s", "60", host="refused")
    time.sleep(2)
    assert process.poll() is None
    chris.signal("promote")
    process.communicate(timeout=30)
    assert process.returncode == 2
