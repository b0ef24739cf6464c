"""What Barman has not got, and what cannot be found out: PostgreSQL takes a "no" for the end of the archive."""

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
def test_a_missing_segment_is_one_line_and_a_missing_history_is_silent(
    chris: Standby, angus: Primary, host: str
) -> None:
    call = chris.fetch("0000000100000000000000F0", "-p", "3", "-s", "30", host=host)
    assert (call.status, call.stdout, len(call.lines)) == (1, "", 1)
    assert "0000000100000000000000F0" in call.stderr
    assert "not in the archive" in call.stderr
    call = chris.fetch("00000002.history", "-s", "30", host=host, destination="pg_wal/RECOVERYHISTORY")
    assert (call.status, call.stdout, call.stderr) == (1, "", "")
    assert chris.pg_wal() == []
    assert call.seconds < 20, "-s is for errors"


def test_a_no_is_always_fresh(chris: Standby, angus: Primary, archive: Callable[..., str], barman: BarmanHost) -> None:
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
def test_what_cannot_be_found_out_is_no_no(
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
def test_no_foreign_status_is_passed_through(chris: Standby, angus: Primary, barman: BarmanHost, status: int) -> None:
    barman.lie("", status)
    assert chris.fetch(angus.segments[4], host="liar").status == 2
    assert chris.pg_wal() == []


def test_a_host_without_barman_is_named(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.lie("", 127)
    assert "barman is not in the PATH" in chris.fetch(angus.segments[4], host="liar").stderr


def test_a_login_message_is_not_taken_for_wal(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.lie("Welcome to the Barman host!\n", 0)
    assert chris.fetch(angus.segments[4], host="liar").status == 3
    assert chris.fetch("00000002.history", host="liar", destination="pg_wal/RECOVERYHISTORY").status == 3
    assert chris.pg_wal() == []


@pytest.fixture
def black_hole(chris: Standby) -> Iterator[Path]:
    """An ssh_config for a host that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        file = chris.folder / "black_hole"
        file.write_text(f"Host *\n HostName 127.0.0.1\n Port {port}\n")
        yield give(file)


def test_a_silent_host_is_given_up_and_then_left_alone(chris: Standby, angus: Primary, black_hole: Path) -> None:
    call = chris.fetch(angus.segments[4], "-p", "3", ssh_config=str(black_hole))
    assert call.status == 2
    assert 9 < call.seconds < 20
    # A promotion asks four times more; none of these waits, or sleeps.
    for name in (angus.segments[4], "00000002.history"):
        call = chris.fetch(name, "-p", "3", "-s", "60", ssh_config=str(black_hole))
        assert call.status == 2
        assert call.seconds < 9, "the limit to connect is 10 s"
    assert "timeline 2 may be taken already" in call.stderr


def test_the_outage_is_over_after_a_while(chris: Standby, angus: Primary) -> None:
    assert chris.fetch(angus.segments[4], ssh_config="unplugged").status == 2
    assert chris.fetch(angus.segments[4]).status == 2, "the outage is remembered"
    (note,) = chris.spool.rglob("outage")
    note.write_text(str(time.monotonic() - 16))
    assert chris.fetch(angus.segments[4]).status == 0
    assert chris.spooled() == []


def test_minus_s_sleeps_after_an_error_until_promotion_is_asked_for(chris: Standby, angus: Primary) -> None:
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
