"""Test which status follows from two snapshots."""

from typing import Any

import pytest

from console import status
from console.snapshot import Archive, Snapshot
from console.status import Row
from tests.support.console_standby import CHRIS, COMMAND, MIB, NOW, SIZE, snapshot


def row_of(before: Snapshot, after: Snapshot) -> Row:
    return status.row("chris", CHRIS, before, after)


def test_row_of_a_streaming_standby() -> None:
    postgres = {"receiver": "streaming", "sent": 5 * MIB, "replayed": 3 * MIB}
    row = row_of(snapshot(0, postgres, {}), snapshot(2, postgres, {}))
    assert (row.role, row.lag_bytes, row.lag_seconds) == (status.STREAMING, 2 * MIB, 60)
    assert (row.fetch_rate, row.replay_rate, row.bottleneck, row.eta) == (None, None, "", None)
    assert row.problems == ()
    assert row.test_age == 600


def test_row_of_a_quiet_primary() -> None:
    postgres = {"receiver": "streaming", "sent": 5 * MIB, "replayed": 5 * MIB}
    row = row_of(snapshot(0, postgres, {}), snapshot(2, postgres, {}))
    assert (row.lag_bytes, row.lag_seconds) == (0, None)


@pytest.mark.parametrize(("waited", "bottleneck"), [(1.9, "fetch"), (0.1, "replay")])
def test_row_of_a_restoring_standby(waited: float, bottleneck: str) -> None:
    spool = [f"0000000100000000000000{number:02X}" for number in (4, 5)]
    before = snapshot(0, {"replayed": 1 * SIZE}, {"bytes": SIZE}, spool=spool[:1])
    after = snapshot(
        2, {"replayed": 3 * SIZE}, {"bytes": 3 * SIZE, "waited": waited}, Archive(2, 43 * SIZE), spool=spool
    )
    row = row_of(before, after)
    assert (row.role, row.spool_segments, row.bottleneck) == (status.RESTORING, 2, bottleneck)
    assert row.fetch_rate == 1.5 * SIZE, "two were handed over, and one more lies in the spool, in two seconds"
    assert row.replay_rate == SIZE
    assert row.lag_bytes == 40 * SIZE, "to the end of the archive, not of the spool"
    assert row.eta == 40


def test_rates_without_a_prefetch_process() -> None:
    direct = CHRIS._replace(restore_command=COMMAND.replace("-p 8", "-p 1"))
    row = status.row("chris", direct, snapshot(0, {}, {}), snapshot(2, {"replayed": SIZE}, {}))
    assert (row.fetch_rate, row.replay_rate, row.bottleneck) == (None, SIZE / 2, "")


def test_row_of_a_former_primary() -> None:
    row = row_of(snapshot(0, {"is_recovering": False, "replayed": None}, {}), snapshot(2, {"replayed": SIZE}, {}))
    assert (row.role, row.replay_rate) == (status.RESTORING, 0)


def test_row_without_progress() -> None:
    row = row_of(snapshot(0, {}, {}), snapshot(2, {}, {}))
    assert (row.role, row.lag_bytes, row.eta, row.bottleneck) == (status.RESTORING, None, None, "")


def test_lag_beyond_gap() -> None:
    """Count to the archive's real end, not to the gap where the standby is stuck."""
    gap = {"missing": "", "later": "", "newest": "000000010000000000000009"}
    row = row_of(snapshot(0, {}, {}), snapshot(2, {"replayed": 4 * SIZE}, {}, archive=Archive(2, 4 * SIZE), gap=gap))
    assert row.lag_bytes == 6 * SIZE


def test_row_of_a_primary() -> None:
    after = snapshot(2, {"is_recovering": False}, {})
    row = row_of(snapshot(0, {}, {}), after)
    assert (row.role, row.problems, row.notes) == (status.PRIMARY, (), (status.IS_PRIMARY,))
    after.fetcher["test"]["error"] = "the key was refused"
    (problem,) = row_of(snapshot(0, {}, {}), after).problems
    assert "the key was refused" in problem


@pytest.mark.parametrize(
    ("postgres", "fetcher", "words"),
    [
        ({"restore_command": "true"}, {}, "in effect is restore_command = 'true'"),
        ({}, {"test": {"time": 0, "seconds": 0, "error": "", "gate": "1"}}, "never tested"),
        (
            {},
            {"test": {"time": NOW, "seconds": 0, "error": "Permission denied", "gate": ""}},
            "failed: Permission denied (0 s ago)",
        ),
        (
            {},
            {"test": {"time": NOW - 4 * 3600, "seconds": 0, "error": "", "gate": "1"}},
            "not tested for hours: the last time 4 h ago",
        ),
        ({}, {"gap": {"missing": "A", "later": "B", "newest": ""}}, "it holds B, but not A"),
        ({}, {"archive": Archive(2, None, "Permission denied")}, "Barman does not answer it: Permission denied"),
    ],
)
def test_problems(postgres: dict[str, Any], fetcher: dict[str, Any], words: str) -> None:
    (problem,) = row_of(snapshot(0, {}, {}), snapshot(2, postgres, {}, **fetcher)).problems
    assert words in problem


@pytest.mark.parametrize(
    ("fetcher", "words"),
    [
        ({"test": {"time": NOW, "seconds": 0, "error": "", "gate": ""}}, "no gate answered"),
        ({"free_segments": 0}, "no room"),
        ({"hosts": {"barman": "", "barman2": "refused"}}, "barman2, one of its Barman hosts, does not work: refused"),
        (
            {"test": {"time": NOW - 600, "error": "no route", "gate": "1", "is_disproved": True}},
            "its last test failed 10 min ago, but a segment was restored since: no route",
        ),
    ],
)
def test_notes(fetcher: dict[str, Any], words: str) -> None:
    row = row_of(snapshot(0, {}, {}), snapshot(2, {}, {}, **fetcher))
    assert row.problems == ()
    (note,) = row.notes
    assert words in note


@pytest.mark.parametrize("postgres", [{"restore_command": None}, {"restore_command": COMMAND}])
def test_no_problems(postgres: dict[str, Any]) -> None:
    assert row_of(snapshot(0, {}, {}), snapshot(2, postgres, {})).problems == ()


@pytest.mark.parametrize(
    ("receiver", "fetcher", "is_stuck"),
    [
        (None, {}, False),
        (None, {"gap": {"missing": "A", "later": "B", "newest": ""}}, True),
        (None, {"abandoned": {"timeline": 2, "description": "timeline 2, which left"}}, True),
        # The primary is on another timeline than that.
        ("streaming", {"abandoned": {"timeline": 2, "description": "timeline 2, which left"}}, False),
    ],
)
def test_stuck(receiver: str | None, fetcher: dict[str, Any], is_stuck: bool) -> None:
    row = row_of(snapshot(0, {}, {}), snapshot(2, {"receiver": receiver}, {}, **fetcher))
    assert status.is_stuck(row) == is_stuck
