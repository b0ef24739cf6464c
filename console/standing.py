"""How a standby stands: two looks at it, a moment apart, make one row."""

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Optional

from .hosts import Cluster, Fleet, Standby, Trouble

QUESTION = """
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
# In the data directory, with the server's port and the folder of its socket.
HERE = """
cd "$1" || exit
{ read -r _; read -r _; read -r _; read -r port; read -r socket; } 2>/dev/null <postmaster.pid || {
    echo "PostgreSQL does not run in $1" >&2
    exit 1
}
"""
PSQL = 'psql -XAtqw -v ON_ERROR_STOP=1 -h "$socket" -p "$port" -d postgres'
LOOK = f"""{HERE}
{PSQL} -c "$2" || exit
eval "$3"
"""
STREAMING, RESTORING, PRIMARY, DOWN = "streaming", "restoring", "primary", "down"
# PostgreSQL waits for WAL more than half of the time.
WAITING = 0.5
# Seconds. A timer tests every hour.
STALE = 3 * 3600
# Seconds between two questions to Barman, each of which costs both sides a handshake.
PEEK_INTERVAL = 5.0
# As many segments as Barman's gate tells at once, and how often it is asked for more of them.
MOST_PEEKED = 1024
MOST_PEEKS = 8
SEGMENT = re.compile(r"[0-9A-F]{24}")


class Archive(NamedTuple):
    """What Barman said at a moment to the standby's own key. `end`: in bytes, of the last segment; None: not known.

    Of an archive that goes on for more than MOST_PEEKS * MOST_PEEKED segments the end is found little by little.
    """

    moment: float
    end: Optional[int]
    trouble: str = ""


NEVER = Archive(float("-inf"), None)


class Look(NamedTuple):
    """What PostgreSQL and barman-wal-restore --status said at a moment (seconds, of a clock that only grows)."""

    moment: float
    server: dict[str, Any]
    status: dict[str, Any]
    archive: Archive = NEVER


class Row(NamedTuple):
    """One standby. Rates are bytes a second, lags bytes and seconds, times seconds. None: not known, or none.

    problems: what would keep it from surviving; notes: what makes it slower, or less safe.
    """

    standby: str
    server: str
    role: str
    lag_bytes: Optional[int] = None
    lag_seconds: Optional[float] = None
    last_restored: str = ""
    basin: int = 0
    fetch_rate: Optional[float] = None
    replay_rate: Optional[float] = None
    bottleneck: str = ""
    eta: Optional[float] = None
    test_age: Optional[float] = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Looks = dict[str, Look]


def look(cluster: Cluster, before: Optional[Look] = None) -> Look:
    """One more. Raises Trouble when the standby cannot be asked; when Barman cannot, the archive says so."""
    standby = cluster.standby
    words = asking(standby.restore_command, "--status --json")
    command = ("sh", "-c", LOOK, "sh", standby.data_directory, QUESTION, words)
    said = cluster.host.run(*command, user=standby.postgres_user)
    try:
        server, status = said.splitlines()[-2:]
        now = Look(time.monotonic(), json.loads(server), json.loads(status), before.archive if before else NEVER)
    except ValueError as error:
        raise Trouble(f"{cluster.name}: neither PostgreSQL nor barman-wal-restore answers: {said[:200]}") from error
    if now.server["is_recovering"] and now.moment - now.archive.moment >= PEEK_INTERVAL:
        return now._replace(archive=_archive(cluster, now))
    return now


def _archive(cluster: Cluster, now: Look) -> Archive:
    size, replayed, known = int(now.server["segment_size"]), int(now.server["replayed"]), now.archive.end
    # A checkpoint of the standby's names its timeline late.
    timeline = max(int(now.server["timeline"]), int(now.status["record"]["last_segment"][:8] or "0", 16))
    try:
        end = archive_end(max(known or 0, replayed), timeline, size, lambda segment: _peek(cluster, segment))
        return Archive(now.moment, end)
    except Trouble as trouble:
        return Archive(now.moment, known, str(trouble).removeprefix(f"{cluster.host.name}: "))


def archive_end(start: int, timeline: int, size: int, peek: Callable[[str], list[str]]) -> int:
    """Where an archive that goes on from a position ends, in bytes. peek: tells the next segments, from one on."""
    end = start - start % size
    for _ in range(MOST_PEEKS):
        names = peek(segment_at(end, timeline, size))
        end = end_of(names[-1], size) if names else end
        if len(names) < MOST_PEEKED:
            break
    return end


def _peek(cluster: Cluster, segment: str) -> list[str]:
    """The segments that Barman has, from this one on. Raises Trouble."""
    standby = cluster.standby
    config = standby.option("-c")
    asking_for = ["barman", *(["--config", config] if config else []), "get-wal", "--peek", str(MOST_PEEKED)]
    line = shlex.join([*asking_for, standby.barman_server, segment])
    said = cluster.host.run(
        *("ssh", "-F", standby.option("--ssh-config"), "-T", standby.barman_host, line), user=standby.postgres_user
    )
    return [word for word in said.split() if SEGMENT.fullmatch(word)]  # a login message may come before


def psql(cluster: Cluster, script: str) -> str:
    """What the standby's server says to a script of psql's. Raises Trouble."""
    command = ("sh", "-c", f"{HERE}\nprintf '%s\\n' \"$2\" | {PSQL}", "sh", cluster.standby.data_directory, script)
    return cluster.host.run(*command, user=cluster.standby.postgres_user).strip()


def rows(fleet: Fleet, before: Looks, interval: float) -> list[Row]:
    """A row for each standby, those that do not answer included, from its looks (which are renewed) and one more.

    interval: seconds in between.
    """
    time.sleep(interval)
    found = []
    for host in fleet.standbys:
        try:
            found += [_row_of(cluster, before) for cluster in fleet.clusters_on(host)]
        except Trouble as trouble:
            found.append(_down(host.name, "", host.name, trouble))
    return found


def _row_of(cluster: Cluster, before: Looks) -> Row:
    try:
        last = before.get(cluster.name)
        now = before[cluster.name] = look(cluster, last)
        return row(cluster.name, cluster.standby, last or now, now)
    except Trouble as trouble:
        return _down(cluster.name, cluster.standby.barman_server, cluster.host.name, trouble)


def _down(name: str, server: str, host: str, trouble: Trouble) -> Row:
    return Row(name, server, DOWN, problems=(str(trouble).removeprefix(f"{host}: "),))


def looks(fleet: Fleet) -> Looks:
    """The first, of those that answer."""
    found: Looks = {}
    rows(fleet, found, 0)
    return found


def asking(restore_command: str, option: str) -> str:
    """A restore_command that is called for no file: with -t, or with --status."""
    return re.sub(r"^(\S+) (.*) %f %p$", rf"\1 {option} \2 test pg_wal/test", restore_command).replace("%%", "%")


def row(name: str, standby: Standby, before: Look, after: Look) -> Row:
    """From two looks, the second some seconds after the first. `name`: of the host."""
    server, status = after.server, after.status
    if not server["is_recovering"]:
        return Row(name, standby.barman_server, PRIMARY, problems=("it is no standby (any more)",))
    if not before.server["is_recovering"]:
        before = after
    seconds = max(after.moment - before.moment, 0.001)
    record, was = status["record"], before.status["record"]
    size = server["segment_size"]
    role = STREAMING if server["receiver"] == "streaming" else RESTORING
    lag = _lag(server, after.archive)
    replay_rate = (server["replayed"] - before.server["replayed"]) / seconds
    fetched = record["bytes"] - was["bytes"] + (len(status["basin"]) - len(before.status["basin"])) * size
    is_moving = role == RESTORING and replay_rate > 0
    # Without a background process nothing is counted.
    is_counted = int(standby.option("-p") or 0) > 1
    return Row(
        name,
        standby.barman_server,
        role,
        lag,
        None if lag == 0 or server["replayed_at"] is None else max(0.0, server["now"] - server["replayed_at"]),
        record["last_segment"],
        len(status["basin"]),
        max(0.0, fetched / seconds) if role == RESTORING and is_counted else None,
        replay_rate if role == RESTORING else None,
        _bottleneck((record["waited"] - was["waited"]) / seconds) if is_moving and is_counted else "",
        lag / replay_rate if is_moving and lag is not None else None,
        server["now"] - status["test"]["time"] if status["test"]["time"] else None,
        tuple(problems(standby, after)),
        tuple(_notes(after)),
    )


def _bottleneck(waiting: float) -> str:
    """waiting: for which part of the time PostgreSQL has waited for WAL."""
    return "fetch" if waiting > WAITING else "replay"


def _lag(server: dict[str, Any], archive: Archive) -> Optional[int]:
    """To what the primary has sent, or to the end of Barman's archive."""
    end = server["sent"] if server["receiver"] == "streaming" else archive.end
    return None if end is None else max(0, int(end) - int(server["replayed"]))


def end_of(segment: str, size: int) -> int:
    """The position behind a segment, in bytes."""
    log, number = int(segment[8:16], 16), int(segment[16:24], 16)
    return (log << 32) + (number + 1) * size


def segment_at(position: int, timeline: int, size: int) -> str:
    """The name of the segment with a position (bytes) in it."""
    number = position // size
    per_log = (1 << 32) // size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def problems(standby: Standby, now: Look) -> Iterator[str]:
    """What would keep it from surviving an outage of its primary."""
    server, status = now.server, now.status
    # Up to PostgreSQL 11 it is no setting, and cannot be asked for.
    if server["restore_command"] not in (None, standby.restore_command):
        yield f"in effect is restore_command = '{server['restore_command']}'"
    if now.archive.trouble:
        yield f"Barman does not answer it: {now.archive.trouble}"
    test = status["test"]
    if not test["time"]:
        yield "the way to Barman was never tested"
    elif test["error"]:
        yield f"the last test failed: {test['error']}"
    elif server["now"] - test["time"] > STALE:
        yield "the way to Barman was not tested for hours"


def _notes(now: Look) -> Iterator[str]:
    test, status = now.status["test"], now.status
    if test["time"] and not test["error"] and not test["gate"]:
        yield "no gate answered its last test: its key may do more than fetch WAL, which is slow without"
    if not status["basin"] and status["room"] < 1:
        yield "the spool has no room, so nothing is fetched ahead"
