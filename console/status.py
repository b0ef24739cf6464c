"""Find out the status of each standby: two snapshots, a moment apart, make one row."""

import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Optional

from .answers import SEGMENT, parse_snapshot
from .hosts import RESTORE_COMMAND, Cluster, Fleet, Host, Standby
from .ssh import HostKeyUnknown
from .text import ConsoleError, duration

QUERY = """
SELECT json_build_object(
  'version', current_setting('server_version'),
  'is_recovering', pg_is_in_recovery(),
  'replayed', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() - '0/0' END,
  'replayed_at', extract(epoch FROM pg_last_xact_replay_timestamp()),
  'now', extract(epoch FROM clock_timestamp()),
  'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
  'receiver', (SELECT status FROM pg_stat_wal_receiver),
  'sent', (SELECT latest_end_lsn - '0/0' FROM pg_stat_wal_receiver),
  'restore_command', current_setting('restore_command', true),
  'segment_size', (SELECT setting::bigint * CASE unit WHEN '8kB' THEN 8192 ELSE 1 END
                   FROM pg_settings WHERE name = 'wal_segment_size'))
"""
# Go to the data directory, and read the server's port and the folder of its socket. Of
# one that is rebuilt, tell how far the copy is: tasks/restore_backup.yml has recorded
# its size, what was there before (bytes), and when it began (seconds).
FIND_POSTGRES = """
new=$1.rebuild/new
if [ -d "$new" ] && { read -r size before began; } 2>/dev/null <"$1.rebuild/progress"; then
    copied=$(du -sB1 "$new" | cut -f 1)
    rate=$((copied > before ? (copied - before) / ($(date +%s) - began + 1) : 0))
    [ "$rate" -eq 0 ] || left=", $((rate >> 10)) kB/s, about $(((size - copied) / rate / 60 + 1)) min left"
    echo "it is rebuilt from Barman: $((copied >> 20)) of $((size >> 20)) MB$left" >&2
    exit 1
fi
cd "$1" || exit
{ read -r _; read -r _; read -r _; read -r port; read -r socket; } 2>/dev/null <postmaster.pid || {
    echo "PostgreSQL does not run in $1" >&2
    exit 1
}
"""
PSQL = 'psql -XAtqw -v ON_ERROR_STOP=1 -h "$socket" -p "$port" -d postgres'
# One line of JSON from PostgreSQL, then one from the fetcher.
TAKE_SNAPSHOT = f"""{FIND_POSTGRES}
{PSQL} -c "$2" || exit
eval "$3"
"""
STREAMING, RESTORING, PRIMARY = "streaming", "restoring", "primary"
# Of a standby that could not be asked: it did not answer, or it is not known as itself.
DOWN, UNKNOWN = "down", "unknown"
UNASKED = (DOWN, UNKNOWN)
# Standbys that are asked at once: each takes a thread here, and an ssh or two.
MOST_ASKED = 64
# Seconds after which a standby that could not be asked is asked again.
RETRY_INTERVAL = 10.0
# A part of the time. When PostgreSQL waits longer for WAL, fetching is the slower side.
WAITING_SHARE = 0.5
# Seconds. A test that is older is a problem: the timer tests every hour.
STALE_TEST = 3 * 3600
# Seconds between two requests of a standby to Barman: each costs both sides an ssh
# handshake. With many standbys they are further apart.
PEEK_INTERVAL, PEEKS_A_SECOND = 5.0, 10
# Standbys that begin to ask the same Barman host at once: an sshd turns away some of
# those who log in when there are more than 10 of them. Seconds that a login may take.
MOST_PEEKING, PEEK_STARTS_IN = 8, 1.0
# Segments. Barman's gate lists as many in one answer.
MOST_PEEKED = 1024
# How often the gate is asked for more of them, for one snapshot.
MOST_PEEKS = 8
# Bytes that psql may print, and Barman for one list of segments.
MOST_PRINTED = 8 << 10
MOST_LISTED = 1 << 20


class Archive(NamedTuple):
    """How far Barman's archive goes, as the gate told the standby at a moment.

    end: the end of the last segment, in bytes; None: not known. An archive that goes on
    for more than MOST_PEEKS * MOST_PEEKED segments is followed to its end in several
    snapshots.
    """

    moment: float
    end: Optional[int]
    error: str = ""


# A node may get the other role in each failover, so this is no problem.
IS_PRIMARY = "it is a primary, and ready for the other role if its test is well"

# Begins the problem of a standby that cannot come back by itself.
GAP = "the archive has a gap"
NEVER_ASKED = Archive(float("-inf"), None)


class Snapshot(NamedTuple):
    """What PostgreSQL and the fetcher said of a standby at a moment.

    moment: seconds of a monotonic clock. postgres: the result of QUERY. fetcher: the
    output of barman-wal-restore --status --json.
    """

    moment: float
    postgres: dict[str, Any]
    fetcher: dict[str, Any]
    archive: Archive = NEVER_ASKED


class Row(NamedTuple):
    """The status of one standby, as people and `fab status --json` see it.

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


class Throttle:
    """Let few at a time begin something that takes long.

    Who has begun some seconds ago counts no more, ended or not.
    """

    def __init__(self, most: int, seconds: float) -> None:
        """most: for each name. seconds: of a beginning."""
        self._most = most
        self._seconds = seconds
        self._begun: dict[str, dict[object, float]] = {}
        self._changed = threading.Condition()

    @contextmanager
    def place(self, name: str) -> Iterator[None]:
        """Wait for a place among those who begin with the same thing, and hold it."""
        me = object()
        with self._changed:
            begun = self._begun.setdefault(name, {})
            while len(begun) >= self._most:
                oldest = min(begun, key=begun.__getitem__)
                left = begun[oldest] + self._seconds - time.monotonic()
                if left <= 0:
                    del begun[oldest]
                else:
                    self._changed.wait(left)
            begun[me] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                begun.pop(me, None)
                self._changed.notify()


def take_snapshot(
    cluster: Cluster,
    before: Optional[Snapshot] = None,
    peeks: Optional[Throttle] = None,
    peek_interval: float = PEEK_INTERVAL,
) -> Snapshot:
    """Ask a standby, and Barman too when its last answer (in `before`) is old.

    peeks: keeps many standbys from asking the same Barman host at once. peek_interval:
    seconds between two answers of Barman.
    Raises ConsoleError when the standby cannot be asked. An error of Barman's is part
    of the snapshot.
    """
    standby = cluster.standby
    status_command = command_with_option(standby.restore_command, "--status --json")
    command = ("sh", "-c", TAKE_SNAPSHOT, "sh", standby.data_directory, QUERY, status_command)
    output = cluster.host.run(*command, user=standby.postgres_user)
    postgres, fetcher = parse_snapshot(cluster.host.name, output)
    now = Snapshot(time.monotonic(), postgres, fetcher, before.archive if before else NEVER_ASKED)
    if postgres["is_recovering"] and now.moment - now.archive.moment >= peek_interval:
        with peeks.place(cluster.standby.barman_host) if peeks else nullcontext():
            return now._replace(archive=_ask_barman(cluster, now))
    return now


def _ask_barman(cluster: Cluster, now: Snapshot) -> Archive:
    """Follow the archive to its end, from where it was known, or replayed, to be."""
    size, replayed, known = int(now.postgres["segment_size"]), int(now.postgres["replayed"]), now.archive.end
    # Take the newer timeline: PostgreSQL names a new one only after the next
    # checkpoint.
    timeline = max(int(now.postgres["timeline"]), int(now.fetcher["counters"]["last_segment"][:8] or "0", 16))
    try:
        end = archive_end(max(known or 0, replayed), timeline, size, lambda segment: _peek(cluster, segment))
        return Archive(now.moment, end)
    except ConsoleError as error:
        return Archive(now.moment, known, str(error).removeprefix(f"{cluster.host.name}: "))


def archive_end(start: int, timeline: int, size: int, peek: Callable[[str], list[str]]) -> int:
    """Return the end of an archive that goes on from `start` (positions in bytes).

    peek: returns the names of the next segments, from one on. size: of a segment, in
    bytes.
    """
    end = start - start % size
    for _ in range(MOST_PEEKS):
        names = peek(segment_at(end, timeline, size))
        end = end_of(names[-1], size) if names else end
        if len(names) < MOST_PEEKED:
            break
    return end


def _peek(cluster: Cluster, segment: str) -> list[str]:
    """Return the segments that Barman has, from this one on.

    The first Barman host that answers is believed. Raises the ConsoleError of the
    preferred one.
    """
    first, *others = cluster.standby.barman_hosts
    try:
        return _peek_at(cluster, first, segment)
    except ConsoleError:
        for name in others:
            with contextlib.suppress(ConsoleError):
                return _peek_at(cluster, name, segment)
        raise


def _peek_at(cluster: Cluster, barman_host: str, segment: str) -> list[str]:
    """Return the segments that one Barman host has, from this one on.

    Raises ConsoleError.
    """
    standby = cluster.standby
    config = standby.option("-c")
    get_wal = ["barman", *(["--config", config] if config else []), "get-wal", "--peek", str(MOST_PEEKED)]
    remote_command = shlex.join([*get_wal, standby.barman_server, segment])
    ssh = ("ssh", "-F", standby.option("--ssh-config"), "-T", barman_host, remote_command)
    output = cluster.host.run(*ssh, user=standby.postgres_user, most=MOST_LISTED)
    # Pick out the segments: a login message may come before them.
    return [word for word in output.split() if SEGMENT.fullmatch(word)]


def psql(cluster: Cluster, script: str) -> str:
    """Return the output of a psql script on the standby's server.

    Raises ConsoleError.
    """
    shell = f"{FIND_POSTGRES}\nprintf '%s\\n' \"$2\" | {PSQL}"
    command = ("sh", "-c", shell, "sh", cluster.standby.data_directory, script)
    return cluster.host.run(*command, user=cluster.standby.postgres_user, most=MOST_PRINTED).strip()


class Survey:
    """Ask the standbys of a fleet side by side, and keep what each has answered last.

    Leaving the block waits for nobody; the end of the fleet ends what is under way.
    """

    def __init__(self, fleet: Fleet, patience: Optional[float] = None) -> None:
        """patience: seconds to wait for a standby in a round; None: for all."""
        self._fleet = fleet
        self._patience = patience
        self._pool = ThreadPoolExecutor(MOST_ASKED)
        self._peeks = Throttle(MOST_PEEKING, PEEK_STARTS_IN)
        self._peek_interval = max(PEEK_INTERVAL, len(fleet.standbys) / PEEKS_A_SECOND)
        self._snapshots: dict[str, Snapshot] = {}
        # Of each host: the rows that were found last, and when they said that it could
        # not be asked; and what is under way.
        self._rows: dict[str, list[Row]] = {}
        self._failed_at: dict[str, float] = {}
        self._asked: dict[str, Future[list[Row]]] = {}

    def __enter__(self) -> "Survey":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def rows(self) -> list[Row]:
        """Return a row for each standby, from its last snapshot and a new one.

        A standby that does not answer has a row too. It is asked again a while later,
        and with `patience` nobody waits for it then.
        """
        began = time.monotonic()
        for host in self._fleet.standbys:
            is_due = began - self._failed_at.get(host.name, float("-inf")) >= RETRY_INTERVAL
            if is_due and host.name not in self._asked:
                self._asked[host.name] = self._pool.submit(self._ask, host)
        expected = [
            asked for name, asked in self._asked.items() if self._patience is None or name not in self._failed_at
        ]
        wait(expected, self._patience)
        return [row for host in self._fleet.standbys for row in self._rows_of(host, began)]

    def _rows_of(self, host: Host, began: float) -> list[Row]:
        """Return the rows of a host that was asked, at `began` or before."""
        asked = self._asked.get(host.name)
        if asked is not None and asked.done():
            del self._asked[host.name]
            self._rows[host.name] = asked.result()
            self._failed_at.pop(host.name, None)
            if all(row.role in UNASKED for row in self._rows[host.name]):
                self._failed_at[host.name] = time.monotonic()
        elif asked is not None and host.name not in self._failed_at:
            self._failed_at[host.name] = began
            known = self._rows.get(host.name) or [Row(host.name, "", DOWN)]
            late = f"it has not answered for {duration(time.monotonic() - began)}"
            self._rows[host.name] = [Row(row.standby, row.server, DOWN, problems=(late,)) for row in known]
        return self._rows[host.name]

    def _ask(self, host: Host) -> list[Row]:
        try:
            return [self._row_of(cluster) for cluster in self._fleet.clusters_on(host)]
        except ConsoleError as error:
            return [_row_unasked(host.name, "", host, error)]

    def _row_of(self, cluster: Cluster) -> Row:
        try:
            before = self._snapshots.get(cluster.name)
            after = self._snapshots[cluster.name] = take_snapshot(cluster, before, self._peeks, self._peek_interval)
            return row(cluster.name, cluster.standby, before or after, after)
        except ConsoleError as error:
            return _row_unasked(cluster.name, cluster.standby.barman_server, cluster.host, error)


def _row_unasked(name: str, barman_server: str, host: Host, error: ConsoleError) -> Row:
    role = UNKNOWN if isinstance(error, HostKeyUnknown) else DOWN
    return Row(name, barman_server, role, problems=(str(error).removeprefix(f"{host.name}: "),))


def command_with_option(restore_command: str, option: str) -> str:
    """Return the fetcher's call with an option that fetches no file, -t or --status."""
    return RESTORE_COMMAND.sub(rf"\1 {option} \2 test pg_wal/test", restore_command).replace("%%", "%")


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


def end_of(segment: str, size: int) -> int:
    """Return the position behind a segment, in bytes."""
    log, number = int(segment[8:16], 16), int(segment[16:24], 16)
    return (log << 32) + (number + 1) * size


def segment_at(position: int, timeline: int, size: int) -> str:
    """Return the name of the segment that holds a position (bytes)."""
    number = position // size
    per_log = (1 << 32) // size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


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
    if not now.fetcher["spool"] and now.fetcher["free_segments"] < 1:
        yield "the spool has no room, so nothing is fetched ahead"
