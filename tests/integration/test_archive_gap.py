"""Test what a standby says of a gap in the archive that it cannot pass."""

import json
from collections.abc import Callable

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost, both_hosts
from tests.support.postgres import SEGMENT_SIZE, Server
from tests.support.processes import wait_until
from tests.support.standby import Standby

from .conftest import Primary, rows


@pytest.fixture
def stuck(chris: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]) -> str:
    """Return a server of Barman's that lacks what chris wants next."""
    have, _missing, *later = angus.segments[3:8]
    (chris.data / "pg_wal" / have).write_bytes(wal(have))
    return archive({name: wal(name) for name in (have, *later)})


@both_hosts
def test_selftest(chris: Standby, angus: Primary, stuck: str, barman: BarmanHost, host: str) -> None:
    chris.make_spool()
    _have, missing, later, *_, newest = angus.segments[3:8]
    call = chris.fetch("test", "-t", host=host, server=stuck)
    assert call.status == 2
    assert f"has a gap: it holds {later}, but not {missing}" in call.stderr
    told = json.loads(chris.fetch("test", "--status", "--json", host=host, server=stuck).stdout)
    found = told["gap"]
    assert (found["missing"], found["later"], found["newest"]) == (missing, later, newest)
    assert told["test"]["is_lasting"] is False, "the gap itself is told as long as it is ahead"
    barman.put(stuck, missing, barman.file("angus", missing).read_bytes())
    call = chris.fetch("test", "-t", host=host, server=stuck)
    assert (call.status, call.stderr) == (0, "")
    assert json.loads(chris.fetch("test", "--status", "--json", host=host, server=stuck).stdout)["gap"] is None


def test_call_without_prefetch(chris: Standby, angus: Primary, stuck: str) -> None:
    """Tell it in the log, once in a while."""
    _have, missing, later, *_ = angus.segments[3:8]
    call = chris.fetch(missing, host="gate", server=stuck)
    assert call.status == 1
    assert f"a gap here: it holds {later}; this standby cannot go on without it" in call.stderr
    call = chris.fetch(missing, host="gate", server=stuck)
    assert call.status == 1
    assert "PostgreSQL will ask again" in call.stderr
    assert "gap" not in call.stderr


def test_missing_history(chris: Standby, angus: Primary, archive: Callable[..., str]) -> None:
    child = f"00000002{angus.segments[5][8:]}"
    server = archive({child: wal_builder.build_segment(child, angus.system_identifier, SEGMENT_SIZE)})
    call = chris.fetch("00000002.history", host="gate", server=server, destination="pg_wal/RECOVERYHISTORY")
    assert call.status == 1
    assert (
        f"00000002.history: the archive has WAL of this timeline, but not its history: it holds {child}" in call.stderr
    )


def test_abandoned_timeline(
    chris: Standby,
    angus: Primary,
    copy_of_base: Callable[..., Server],
    restore_command: Callable[..., str],
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    barman: BarmanHost,
) -> None:
    """Tell of a timeline with which the standby could not start."""
    server = archive({name: wal(name) for name in angus.segments})
    standby = copy_of_base("dora", "standby.signal", restore_command=restore_command("-p", "4", server=server))
    standby.start()
    wait_until(lambda: rows(standby) == angus.rows, "all rows", 60)
    standby.sql("CHECKPOINT")
    assert chris.fetch("test", "-t", host="gate", server=server, cwd=standby.data).status == 0
    barman.put(server, "00000002.history", b"1\t0/4000148\tno recovery target specified\n")
    call = chris.fetch("test", "-t", host="gate", server=server, cwd=standby.data)
    assert (call.status, call.stderr) == (0, "")
    words = "the archive holds timeline 2, which left this server's history at 0/4000148"
    assert f"{words}, before 0/" in call.stdout
    assert words in chris.fetch("test", "--status", host="gate", server=server, cwd=standby.data).stdout
    call = chris.fetch("test", "-t", "--any-timeline", host="gate", server=server, cwd=standby.data)
    assert call.status == 2
    assert "which left this server's history at 0/4000148" in call.stderr
    assert "its next start would fail" in call.stderr
    standby.stop()
    standby.start()


@pytest.mark.timeout(180)
def test_call_with_prefetch(chris: Standby, angus: Primary, stuck: str) -> None:
    """Tell it when PostgreSQL has asked for a minute: a promotion must not wait."""
    _have, missing, later, *_ = angus.segments[3:8]
    told: list[str] = []

    def ask() -> bool:
        call = chris.fetch(missing, "-p", "4", host="gate", server=stuck)
        assert call.status == 1
        told.append(call.stderr)
        return "gap" in call.stderr

    wait_until(ask, "the line about the gap", 100, step=5)
    assert len(told) > 10
    assert f"a gap here: it holds {later}; this standby cannot go on without it" in told[-1]
    assert not ask()
