"""Decide the status of each standby: two snapshots, a moment apart, make one row."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from .hosts import Standby
from .snapshot import Archive, Snapshot, end_of
from .text import duration

STREAMING, RESTORING, PRIMARY = "streaming", "restoring", "primary"
# Of a standby that could not be asked: it did not answer, or it is not known as itself.
DOWN, UNKNOWN = "down", "unknown"
UNASKED = (DOWN, UNKNOWN)
# A part of the time. When PostgreSQL waits longer for WAL, fetching is the slower side.
WAITING_SHARE = 0.5
# Seconds. A test that is older is a problem: the timer tests every hour.
STALE_TEST = 3 * 3600
# A node may get the other role in each failover, so this is no problem.
IS_PRIMARY = "it is a primary, and ready for the other role if its test is well"

# Begins the problem of a standby that cannot come back by itself.
GAP = "the archive has a gap"
# Begins that of one that the archive has left behind.
ABANDONED = "the archive holds timeline"
# Begins that of one which was promoted, while another server is the primary.
DIVERGED = "it has left the primary's history"


class Row(NamedTuple):
    """Hold the status of one standby, as people and `fab status --json` see it.

    server: its name at Barman. Rates are bytes a second, lags bytes and seconds, times
    seconds; None: not known, or none. problems: what would keep the standby from
    surviving an outage. notes: what makes it slower, or less safe.
    """

    standby: str
    server: str
    role: str
    lag_bytes: Optional[int] = None
    lag_seconds: Optional[float] = None
    last_restored: str = ""
    spool_segments: int = 0
    fetch_rate: Optional[float] = None
    replay_rate: Optional[float] = None
    bottleneck: str = ""
    eta: Optional[float] = None
    test_age: Optional[float] = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def row(name: str, standby: Standby, before: Snapshot, after: Snapshot) -> Row:
    """Return the status of a standby from two snapshots, some seconds apart."""
    postgres = after.postgres
    if not postgres["is_recovering"]:
        tested, age = tuple(_test_problems(after)), _test_age(after)
        return Row(name, standby.barman_server, PRIMARY, test_age=age, problems=tested, notes=(IS_PRIMARY,))
    if not before.postgres["is_recovering"]:
        before = after
    seconds = max(after.moment - before.moment, 0.001)
    counters, earlier = after.fetcher["counters"], before.fetcher["counters"]
    is_restoring = postgres["receiver"] != "streaming"
    # Without a prefetch process nothing is counted.
    is_counted = is_restoring and int(standby.option("-p") or 0) > 1
    lag = _lag(postgres, _archive_beyond_gap(after))
    replay_rate = (postgres["replayed"] - before.postgres["replayed"]) / seconds
    prefetched = len(after.fetcher["spool"]) - len(before.fetcher["spool"])
    fetched = counters["bytes"] - earlier["bytes"] + prefetched * postgres["segment_size"]
    is_moving = is_restoring and replay_rate > 0
    return Row(
        standby=name,
        server=standby.barman_server,
        role=RESTORING if is_restoring else STREAMING,
        lag_bytes=lag,
        lag_seconds=_lag_seconds(postgres, lag),
        last_restored=counters["last_segment"],
        spool_segments=len(after.fetcher["spool"]),
        fetch_rate=max(0.0, fetched / seconds) if is_counted else None,
        replay_rate=replay_rate if is_restoring else None,
        bottleneck=_bottleneck((counters["waited"] - earlier["waited"]) / seconds) if is_moving and is_counted else "",
        eta=lag / replay_rate if is_moving and lag is not None else None,
        test_age=_test_age(after),
        problems=tuple(problems(standby, after)),
        notes=tuple(_notes(after)),
    )


def _bottleneck(waiting: float) -> str:
    """Return the slower side, when PostgreSQL waits for WAL this part of the time."""
    return "fetch" if waiting > WAITING_SHARE else "replay"


def _archive_beyond_gap(now: Snapshot) -> Archive:
    """Return the archive with its real end, which lies behind a gap if there is one."""
    gap = now.fetcher.get("gap")
    if not gap or not gap["newest"]:
        return now.archive
    end = end_of(gap["newest"], int(now.postgres["segment_size"]))
    return now.archive._replace(end=max(now.archive.end or 0, end))


def _lag(postgres: dict[str, Any], archive: Archive) -> Optional[int]:
    """Return how many bytes are not replayed yet.

    Of what the primary has sent while it streams, and of Barman's archive otherwise.
    """
    end = postgres["sent"] if postgres["receiver"] == "streaming" else archive.end
    return None if end is None else max(0, int(end) - int(postgres["replayed"]))


def _lag_seconds(postgres: dict[str, Any], lag: Optional[int]) -> Optional[float]:
    """Return the age of the last commit that was replayed, unless everything was."""
    if lag == 0 or postgres["replayed_at"] is None:
        return None
    return max(0.0, float(postgres["now"]) - float(postgres["replayed_at"]))


def problems(standby: Standby, now: Snapshot) -> Iterator[str]:
    """Return what would keep a standby from surviving an outage of its primary."""
    effective = now.postgres["restore_command"]
    # None means not known: up to PostgreSQL 11 it is no setting.
    if effective not in (None, standby.restore_command):
        yield f"in effect is restore_command = '{effective}'"
    if now.archive.error:
        yield f"Barman does not answer it: {now.archive.error}"
    gap = now.fetcher.get("gap")
    if gap:
        yield f"{GAP}: it holds {gap['later']}, but not {gap['missing']}, which comes next here"
    abandoned = now.fetcher.get("abandoned")
    if abandoned:
        yield f"the archive holds {abandoned['description']}"
    yield from _test_problems(now)


def is_stuck(row: Row) -> bool:
    """Return whether a standby seems to need help before it can come back.

    One that streams needs nothing of the archive, nor of another timeline in it.
    """
    begins = (GAP, ABANDONED) if row.role == RESTORING else (GAP, DIVERGED)
    return any(problem.startswith(begins) for problem in row.problems)


def _test_problems(now: Snapshot) -> Iterator[str]:
    """Return what the last test, or its age, says against a standby or primary."""
    test, age = now.fetcher["test"], _test_age(now)
    if age is None:
        yield "the way to Barman was never tested"
    elif test["error"] and not test.get("is_disproved"):
        yield f"the last test failed: {test['error']} ({duration(age)} ago)"
    elif age > STALE_TEST:
        yield f"the way to Barman was not tested for hours: the last time {duration(age)} ago"


def _test_age(now: Snapshot) -> Optional[float]:
    """Return the age of the last test, in seconds."""
    tested = now.fetcher["test"]["time"]
    return max(0.0, float(now.postgres["now"] - tested)) if tested else None


def _notes(now: Snapshot) -> Iterator[str]:
    test, age = now.fetcher["test"], _test_age(now)
    if age is not None and test["error"] and test.get("is_disproved"):
        yield f"its last test failed {duration(age)} ago, but a segment was restored since: {test['error']}"
    if test.get("unasked") and not test["error"]:
        yield f"its last test could not ask PostgreSQL which restore_command it uses: {test['unasked']}"
    if test["time"] and not test["error"] and not test["gate"]:
        yield "no gate answered its last test: its key may do more than fetch WAL, which is slow without"
    for host, error in now.fetcher.get("hosts", {}).items():
        if error:
            yield f"{host}, one of its Barman hosts, does not work: {error}"
    if not now.fetcher["spool"] and now.fetcher["free_segments"] < 1:
        yield "the spool has no room, so nothing is fetched ahead"
