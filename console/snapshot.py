"""Ask a standby, and Barman through it, how they are."""

import contextlib
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Optional

from .answers import SEGMENT, parse_snapshot
from .hosts import RESTORE_COMMAND, Cluster
from .text import ConsoleError

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
# its size, what was there before (bytes), and when it began (seconds); then, a line
# each, the folders of tablespaces.
FIND_POSTGRES = """
if { read -r pid; read -r _; read -r _; read -r port; read -r socket; } 2>/dev/null <"$1/postmaster.pid" &&
    kill -0 "$pid" 2>/dev/null; then
    cd "$1" || exit
elif new=$1.rebuild/new && [ -d "$new" ] && { read -r size before began; } 2>/dev/null <"$1.rebuild/progress"; then
    copied=$({ echo "$new"; sed 1d "$1.rebuild/progress"; } | tr '\\n' '\\0' |
        du -scB1 --files0-from=- 2>/dev/null | tail -n 1 | cut -f 1)
    rate=$((copied > before ? (copied - before) / ($(date +%s) - began + 1) : 0))
    missing=$((size > copied ? size - copied : 0)) left=
    [ "$rate" -eq 0 ] || left=", $((rate >> 10)) kB/s, about $((missing / rate / 60 + 1)) min left"
    echo "it is rebuilt from Barman: $((copied >> 20)) of $((size >> 20)) MB$left" >&2
    exit 1
else
    cd "$1" && echo "PostgreSQL does not run in $1" >&2
    exit 1
fi
"""
PSQL = 'psql -XAtqw -v ON_ERROR_STOP=1 -h "$socket" -p "$port" -d postgres'
# One line of JSON from PostgreSQL, then one from the fetcher.
TAKE_SNAPSHOT = f"""{FIND_POSTGRES}
{PSQL} -c "$2" || exit
eval "$3"
"""
# Seconds between two requests of a standby to Barman: each costs both sides an ssh
# handshake.
PEEK_INTERVAL = 5.0
# Segments. Barman's gate lists as many in one answer.
MOST_PEEKED = 1024
# How often the gate is asked for more of them, for one snapshot.
MOST_PEEKS = 8
# Bytes that psql may print, and Barman for one list of segments.
MOST_PRINTED = 8 << 10
MOST_LISTED = 1 << 20


class Archive(NamedTuple):
    """Hold how far Barman's archive goes, as the gate told at a moment.

    end: the end of the last segment, in bytes; None: not known. An archive that goes on
    for more than MOST_PEEKS * MOST_PEEKED segments is followed to its end in several
    snapshots.
    """

    moment: float
    end: Optional[int]
    error: str = ""


NEVER_ASKED = Archive(float("-inf"), None)


class Snapshot(NamedTuple):
    """Hold what PostgreSQL and the fetcher said of a standby at a moment.

    moment: seconds of a monotonic clock. postgres: the result of QUERY. fetcher: the
    output of barman-wal-restore --status --json.
    """

    moment: float
    postgres: dict[str, Any]
    fetcher: dict[str, Any]
    archive: Archive = NEVER_ASKED


def take_snapshot(
    cluster: Cluster,
    before: Optional[Snapshot] = None,
    turn: Optional[AbstractContextManager[None]] = None,
    peek_interval: float = PEEK_INTERVAL,
) -> Snapshot:
    """Ask a standby, and Barman too when its last answer (in `before`) is old.

    turn: held while Barman is asked. peek_interval: seconds between two answers of
    Barman.
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
        with turn or nullcontext():
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


def command_with_option(restore_command: str, option: str) -> str:
    """Return the fetcher's call with an option that fetches no file, -t or --status."""
    return RESTORE_COMMAND.sub(rf"\1 {option} \2 test pg_wal/test", restore_command).replace("%%", "%")


def end_of(segment: str, size: int) -> int:
    """Return the position behind a segment, in bytes."""
    log, number = int(segment[8:16], 16), int(segment[16:24], 16)
    return (log << 32) + (number + 1) * size


def segment_at(position: int, timeline: int, size: int) -> str:
    """Return the name of the segment that holds a position (bytes)."""
    number = position // size
    per_log = (1 << 32) // size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"
