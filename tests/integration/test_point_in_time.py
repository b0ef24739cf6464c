"""Test point-in-time recovery, which a wrong "not in the archive" would end early."""

from collections.abc import Callable

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost, both_hosts
from tests.support.postgres import SEGMENT_SIZE
from tests.support.standby import Standby

from .conftest import Primary


def test_retry_limit(recovering: Standby, angus: Primary) -> None:
    call = recovering.fetch(angus.segments[4], "-p", "3", "-s", "60", "--retry", "2", host="refused")
    assert call.status == 200
    assert 2 <= call.seconds < 15
    assert "trying again in 1 s" in call.lines[0]
    assert "nothing is lost" in call.lines[-1]


def test_lost_call_in_recovery(
    recovering: Standby, angus: Primary, barman: BarmanHost, wal: Callable[[str], bytes]
) -> None:
    barman.drop(angus.segments[4])
    call = recovering.fetch(angus.segments[4])
    assert call.status == 0
    assert "trying again" in call.stderr
    assert recovering.delivered() == wal(angus.segments[4])


def test_lost_call_on_standby(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.drop(angus.segments[4])
    assert chris.fetch(angus.segments[4]).status == 2
    assert chris.pg_wal() == []


def test_lost_connection_replaced(
    chris: Standby, angus: Primary, barman: BarmanHost, wal: Callable[[str], bytes]
) -> None:
    barman.drop(angus.segments[4])
    assert chris.fetch(angus.segments[4], "-p", "2").status == 0
    assert not barman.dropping()
    assert chris.delivered() == wal(angus.segments[4])


def test_foreign_segment_in_recovery(recovering: Standby, angus: Primary, archive: Callable[..., str]) -> None:
    server = archive(
        {angus.segments[4]: wal_builder.build_segment(angus.segments[4], angus.system_identifier ^ 1, SEGMENT_SIZE)}
    )
    assert recovering.fetch(angus.segments[4], "--retry", "1", server=server).status == 200


def test_gap_in_recovery(
    recovering: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    before, gap, _, after, end = angus.segments[4:9]
    server = archive({before: wal(before), after: wal(after)})
    call = recovering.fetch(gap, "--retry", "0", server=server, host="gate")
    assert call.status == 200
    assert f"a gap here: it holds {after}" in call.stderr
    call = recovering.fetch(end, "--retry", "0", server=server, host="gate")
    assert call.status == 1, "the archive ends here, and so does the recovery"
    assert recovering.fetch("00000002.history", server=server, host="gate").status == 1


def test_gap_filled_by_pg_wal(
    recovering: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    """Let PostgreSQL use a segment that was saved from a dead primary into pg_wal."""
    gap, after = angus.segments[4:6]
    server = archive({after: wal(after)})
    in_pg_wal = recovering.data / "pg_wal" / gap
    in_pg_wal.write_bytes(wal(after))
    assert recovering.fetch(gap, "--retry", "0", server=server, host="gate").status == 200, "it is another one"
    in_pg_wal.write_bytes(wal(gap))
    call = recovering.fetch(gap, "--retry", "0", server=server, host="gate")
    assert (call.status, len(call.lines)) == (1, 1)
    assert "PostgreSQL has it in pg_wal" in call.stderr


@both_hosts
def test_gap_before_timeline_switch(
    recovering: Standby, angus: Primary, archive: Callable[..., str], host: str
) -> None:
    """Notice the gap that a dead primary leaves before its successor's timeline."""
    gap, switched = angus.segments[4], angus.segments[5]
    history = f"1\t0/{switched[22:]}000148\tno recovery target specified\n".encode()
    begin = f"00000002{switched[8:]}"
    server = archive(
        {"00000002.history": history, begin: wal_builder.build_segment(begin, angus.system_identifier, SEGMENT_SIZE)}
    )
    for is_local in (False, True):
        if is_local:
            (recovering.data / "pg_wal" / "00000002.history").write_bytes(history)
        call = recovering.fetch(gap, "--retry", "0", server=server, host=host)
        assert call.status == 200
        assert f"a gap here: it holds {begin}" in call.stderr


def test_gap_on_standby(
    chris: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    server = archive({angus.segments[6]: wal(angus.segments[6])})
    assert chris.fetch(angus.segments[5], server=server).status == 1


@pytest.mark.parametrize("is_local", [True, False], ids=["history in pg_wal", "history in the archive"])
def test_no_gap_at_timeline_start(
    make_standby: Callable[..., Standby], angus: Primary, archive: Callable[..., str], is_local: bool
) -> None:
    """Report no gap before the first segment of a timeline.

    PostgreSQL before 13 requests every segment on the newest timeline first.
    """
    recovering = make_standby("recovery.signal", version=12)
    history = b"1\t0/6000148\tno recovery target specified\n"
    begin = "000000020000000000000006"
    server = archive(
        {"00000002.history": history, begin: wal_builder.build_segment(begin, angus.system_identifier, SEGMENT_SIZE)}
    )
    if is_local:
        (recovering.data / "pg_wal" / "00000002.history").write_bytes(history)
    assert recovering.fetch("000000020000000000000005", "--retry", "0", server=server).status == 1
    assert recovering.fetch(begin, "--retry", "0", server=server).status == 0


def test_mode_from_recovery_conf(make_standby: Callable[..., Standby], angus: Primary) -> None:
    standby = make_standby("recovery.conf", version=11)
    assert standby.fetch(angus.segments[4], "--retry", "0", host="refused").status == 200
    (standby.data / "recovery.conf").write_text("standby_mode = 'on'\n")
    assert standby.fetch(angus.segments[4], "--retry", "0", host="refused").status == 2


@pytest.mark.parametrize(("mode", "signal_file", "status"), [("standby", "recovery.signal", 2), ("recovery", "x", 200)])
def test_forced_mode(
    make_standby: Callable[..., Standby], angus: Primary, mode: str, signal_file: str, status: int
) -> None:
    standby = make_standby(signal_file)
    assert standby.fetch(angus.segments[4], "--mode", mode, "--retry", "0", host="refused").status == status


def test_no_fatal_status_without_signal_file(make_standby: Callable[..., Standby], angus: Primary) -> None:
    """Return no fatal status once PostgreSQL has removed the signal file."""
    standby = make_standby()
    call = standby.fetch("00000002.history", host="refused", destination="pg_wal/RECOVERYHISTORY")
    assert call.status == 2
