"""Name the ways in which a standby can come back, the cheapest first."""

import contextlib
import re
from pathlib import Path
from typing import Any, NamedTuple, Optional

from . import patroni, role_script
from .hosts import Cluster, Fleet, Standby
from .snapshot import psql
from .status import ABANDONED, DIVERGED, GAP, PRIMARY, RESTORING, UNASKED, Row
from .table import size
from .text import ConsoleError, NotUnderstood, duration

# The position of a standby of which nothing is known.
NOWHERE: dict[str, Any] = {"timeline": 0, "lsn": 0, "history": []}
# pg_rewind takes WAL from the archive from the first version on, and the place of the
# configuration from the second.
REWIND_SINCE, CONFIG_FILE_SINCE = 13, 15
# Timeline, position in bytes, and the history of the timeline: parent and LSN in a row.
POSITION = r"""
SELECT CASE WHEN pg_is_in_recovery()
  THEN (SELECT greatest(timeline_id, min_recovery_end_timeline) FROM pg_control_checkpoint(), pg_control_recovery())
  ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline \gset
SELECT :timeline;
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0';
SELECT found[1], found[2], found[3]
FROM regexp_matches(pg_read_file('pg_wal/' || lpad(upper(to_hex(:timeline)), 8, '0') || '.history', 0, 65536, true),
                    '^(\d+)\t([0-9A-F]+)/([0-9A-F]+)', 'gn') AS found;
"""
# The first PostgreSQL that tells of a slot over a replication connection.
SLOT_SINCE = 15
# Asks the primary for the standby's slot, with the standby's own connection, whose
# password is in no argument. Prints nothing where it has none.
ASK_SLOT = rf"""
SELECT current_setting('server_version_num')::int / 10000 >= {SLOT_SINCE}
  AND current_setting('primary_slot_name') <> '' AS has_slot, current_setting('primary_slot_name') AS slot,
  current_setting('primary_conninfo') || ' replication=true connect_timeout=10' AS primary \gset
\if :has_slot
SELECT :'slot';
\c -reuse-previous=off :primary
READ_REPLICATION_SLOT :"slot";
\endif
"""
ASK_CONNINFO = "SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'"
# Bytes of WAL a second that are replayed where no rate was measured.
USUAL_REPLAY_RATE = 32 << 20
# Bytes by which the archive may end before the primary, in a rebuild.
MOST_BEHIND = 1 << 30
STUCK = "cannot come back by itself"


class Facts(NamedTuple):
    """Hold what is known of a standby, its primary, and Barman.

    Positions and sizes are bytes, rates bytes a second; None: not known. behind: what
    it has to replay from the archive. gap, error: a sentence each, or empty. slot: what
    PostgreSQL says of the standby's slot, or empty. primary: host and port, in words
    for libpq. member: scope and name in Patroni. timeline, primary_timeline, version: 0
    where they are not known. diverged_at: a position, or 0. is_ahead: the primary has
    ended there. written: what both have written since. backup_error: why there is no
    backup to be restored.
    """

    role: str
    behind: Optional[int] = None
    replay_rate: Optional[float] = None
    gap: str = ""
    slot: str = ""
    error: str = ""
    primary: str = "host=PRIMARY"
    member: str = "CLUSTER MEMBER"
    timeline: int = 0
    primary_timeline: int = 0
    diverged_at: int = 0
    is_ahead: bool = False
    written: Optional[int] = None
    version: int = 0
    backup_size: int = 0
    backup_rate: int = 0
    wal_since_backup: int = 0
    backup_error: str = ""


class Way(NamedTuple):
    """Hold one way back.

    bytes, seconds: None where they are not known. source: whose bytes they are.
    command: what to run. obstacle: why it will not do, or empty.
    """

    name: str
    source: str
    bytes: Optional[int]
    seconds: Optional[float]
    command: str
    obstacle: str


def why_stuck(facts: Facts) -> str:
    """Return why a standby cannot come back by itself, or an empty string."""
    if facts.diverged_at:
        lsn = f"{facts.diverged_at >> 32:X}/{facts.diverged_at & 0xFFFFFFFF:X}"
        return (
            f"{DIVERGED} at {lsn} (it is on timeline {facts.timeline}, the primary on "
            f"timeline {facts.primary_timeline})"
        )
    return facts.gap or _slot_problem(facts.slot)


def _slot_problem(slot: str) -> str:
    """Return why it can never stream, from the output of ASK_SLOT, or an empty string.

    >>> _slot_problem("chris\\nphysical|0/3000000|1\\n"), _slot_problem("")
    ('', '')
    """
    name, _, answer = slot.strip().partition("\n")
    if not answer.startswith("|"):
        return ""
    return (
        f"the primary has no slot {name}, so it restores, but can never stream. Run there: "
        f"SELECT pg_create_physical_replication_slot('{name}', true)"
    )


def _slot_note(slot: str) -> str:
    """Return what to know of a slot for which the primary keeps no WAL, or ""."""
    name, _, answer = slot.strip().partition("\n")
    if not re.match(r"\w+\|\|", answer):
        return ""
    return f"the primary keeps no WAL for its slot {name}: it is new, or lost. If it is lost, make it anew there"


def find_ways(facts: Facts, name: str, standby: Standby) -> list[Way]:
    """Return the ways, the cheapest first. name: the standby's in the inventory."""
    is_primary = facts.role == PRIMARY and not facts.diverged_at
    never = "it is the primary, as far as Barman can tell" if is_primary else ""
    if facts.is_ahead:
        never = "it has WAL that the primary lost: save that first"
    unknown = ""
    if facts.timeline and not facts.primary_timeline:
        unknown = "Barman does not reach the primary, so nobody can say whether it has data of its own"
    patroni = f"patronictl -c {standby.patroni_file}" if standby.patroni_file else ""
    wal_seconds = facts.wal_since_backup / (facts.replay_rate or USUAL_REPLAY_RATE)
    copy_seconds = _seconds(facts.backup_size, facts.backup_rate)
    base_backup = (
        f"mv {standby.data_directory} {standby.data_directory}.old && "
        f"pg_basebackup -D {standby.data_directory} -d '{facts.primary} user=REPLICATION' --write-recovery-conf"
    )
    return [
        Way(
            name="wait",
            source="Barman",
            bytes=facts.behind,
            seconds=_seconds(facts.behind, facts.replay_rate),
            command="",
            obstacle=never or why_stuck(facts) or facts.error,
        ),
        Way(
            name="pg_rewind",
            source="the primary and Barman, at most",
            bytes=facts.written,
            seconds=_seconds(facts.written, facts.backup_rate),
            command=_rewind_command(facts, standby.data_directory),
            obstacle=never or _why_not_rewind(facts, patroni),
        ),
        Way(
            name="rebuild",
            source="Barman",
            bytes=facts.backup_size + facts.wal_since_backup,
            seconds=None if copy_seconds is None else copy_seconds + wal_seconds,
            command=f"ansible-playbook walbasin.barman.rebuild -e rebuild_standby={name}",
            obstacle=never or ("Patroni manages it" if patroni else facts.backup_error or unknown),
        ),
        Way(
            name="reinit" if patroni else "base backup",
            source="the primary",
            bytes=facts.backup_size or None,
            seconds=copy_seconds,
            command=f"{patroni} reinit {facts.member}" if patroni else base_backup,
            obstacle=never or ("" if facts.primary_timeline or patroni else "Barman does not reach the primary"),
        ),
    ]


def _rewind_command(facts: Facts, data_directory: str) -> str:
    """Return how to rewind a stopped server, which needs superuser rights there.

    It becomes a standby again, with the settings to stream. Debian's configuration is
    not in the data directory, and names restore_command.
    """
    version = facts.version
    debian = f"/etc/postgresql/{version}/{Path(data_directory).name}/postgresql.conf"
    is_debian = data_directory.startswith(f"/var/lib/postgresql/{version}/")
    config = f" --config-file={debian}" if is_debian and version >= CONFIG_FILE_SINCE else ""
    source = f"--source-server='{facts.primary} user=postgres'"
    return f"pg_rewind -D {data_directory}{config} --restore-target-wal --write-recovery-conf {source}"


def _why_not_rewind(facts: Facts, patroni: str) -> str:
    if facts.diverged_at and patroni:
        return "Patroni does that by itself, where use_pg_rewind is on"
    if facts.diverged_at and 0 < facts.version < REWIND_SINCE:
        return f"in PostgreSQL {facts.version} it takes no WAL from an archive"
    if facts.diverged_at:
        return ""
    if facts.error and not facts.timeline:
        return "nobody knows whether it has diverged: it could not be asked"
    return "it has not diverged, so there is nothing to rewind"


def _seconds(amount: Optional[int], rate: Optional[float]) -> Optional[float]:
    return amount / rate if amount is not None and rate else None


def describe(name: str, facts: Facts, ways: list[Way]) -> list[str]:
    """Return the lines that people see."""
    stuck = why_stuck(facts)
    if stuck:
        first = f"{name} {STUCK}: {stuck}"
    elif facts.error:
        first = f"{name} could not be asked: {facts.error}"
    elif facts.role == RESTORING:
        first = f"{name} comes back by itself{_in(ways[0].seconds)}"
    else:
        first = f"{name} is well ({facts.role})"
    lines = [first, *filter(None, [_slot_note(facts.slot)])]
    for number, way in enumerate(ways, 1):
        cost = f"{size(way.bytes)} from {way.source}, {duration(way.seconds)}"
        lines.append(f"  {number}. {way.name}: {f'will not do: {way.obstacle}' if way.obstacle else cost}")
        if way.command and not way.obstacle:
            lines.append(f"     {way.command}")
    return lines


def _in(seconds: Optional[float]) -> str:
    return f", in about {duration(seconds)}" if seconds is not None else ""


def facts_of(row: Row, position: dict[str, Any], found: dict[str, Any]) -> Facts:
    """Return what is known, from a status row and what examine_backup.py has found.

    position: see find_position. Raises KeyError, TypeError, ValueError where that is
    not understood.
    """
    is_unasked = row.role in UNASKED
    begins = (GAP, ABANDONED) if row.role == RESTORING else GAP
    gap = next((each for each in row.problems if each.startswith(begins)), "")
    known = Facts(
        role=row.role,
        behind=row.lag_bytes,
        replay_rate=row.replay_rate,
        gap=gap,
        error=row.problems[0] if is_unasked and row.problems else "",
        timeline=position["timeline"],
    )
    if "error" in found:
        return known._replace(backup_error=str(found["error"]))
    backup, wal, primary = found["backup"], found["wal"], found["primary"] or {"timeline": 0, "lsn": 0}
    diverged_at = int(found["divergence"]["at"])
    written = sum(max(0, int(lsn) - diverged_at) for lsn in (position["lsn"], primary["lsn"]))
    return known._replace(
        primary_timeline=int(primary["timeline"]),
        diverged_at=diverged_at,
        is_ahead=bool(found["divergence"]["is_ahead"]),
        written=written if diverged_at else None,
        version=int(backup["version"]),
        backup_size=int(backup["size"]),
        backup_rate=int(backup["rate"]),
        wal_since_backup=int(wal["bytes"]),
        backup_error=_backup_error(wal),
    )


def _backup_error(wal: dict[str, Any]) -> str:
    """Return why a rebuild is refused, from what the archive has, or ""."""
    if wal["missing"]:
        return f"the archive has a gap behind its backup: {wal['missing']}"
    if int(wal["behind"]) > MOST_BEHIND:
        return f"the archive ends {size(int(wal['behind']))} before the primary"
    if wal["abandoned"]:
        return f"the archive holds timeline {int(wal['abandoned'])}, which the primary is not on"
    return ""


def find_position(cluster: Cluster) -> dict[str, Any]:
    """Return timeline, LSN and history of a standby whose server answers.

    Raises ConsoleError.
    """
    output = psql(cluster, POSITION).splitlines()
    try:
        timeline, lsn, *history = (line.split("|") for line in output)
        left = [(int(parent), int(high, 16) << 32 | int(low, 16)) for parent, high, low in history]
        return {"timeline": int(timeline[0]), "lsn": int(lsn[0]), "history": left}
    except (ValueError, IndexError) as error:
        raise NotUnderstood(cluster.host.name, f"PostgreSQL says of its position {output}") from error


def find_stopped_position(cluster: Cluster) -> dict[str, Any]:
    """Return the same of a server that does not answer, from its data directory.

    Raises ConsoleError.
    """
    data = cluster.standby.data_directory
    folders = {"data": data, "container": f"{data}.rebuild", "settings": [], "copied": {}}
    asked = {**folders, "version": 0, "discards": False}
    found = role_script.run(cluster.host, cluster.standby.postgres_user, "examine_data", asked)
    try:
        left = [(int(parent), int(lsn)) for parent, lsn in found["history"]]
        return {"timeline": int(found["timeline"]), "lsn": int(found["lsn"]), "history": left}
    except (KeyError, TypeError, ValueError) as error:
        raise NotUnderstood(cluster.host.name, f"of {data} it says {str(found)[:200]}") from error


def ask_barman(fleet: Fleet, cluster: Cluster, position: dict[str, Any]) -> dict[str, Any]:
    """Return what the first Barman host says that has a backup, or an error.

    position: what find_position has returned, or NOWHERE.
    """
    standby = cluster.standby
    asked = {"server": standby.barman_server, "config": standby.option("-c"), "backup": "", **position}
    found: dict[str, Any] = {}
    for name in standby.barman_hosts:
        try:
            found = role_script.run(fleet.host(name), fleet.barman_user(name), "examine_backup", asked)
        except ConsoleError as error:
            found = {"error": str(error)}
        if "error" not in found:
            break
    return found


def parse_primary(conninfo: str) -> str:
    """Return host and port in a conninfo, and nothing else: it may have a password.

    Source: libpq's manual, connection strings. A \\ is before a plain character.

    >>> parse_primary("user=repl password='host=x' host=angus port=5433")
    'host=angus port=5433'
    """
    words = re.findall(r"(\w+)\s*=\s*('(?:\\.|[^'\\])*'|(?:\\.|[^\s\\])*)", conninfo)
    found = {name: value.strip("'") for name, value in words}
    is_plain = all(re.fullmatch(r"[A-Za-z0-9_.:,/-]+", found.get(name, "5432")) for name in ("host", "port"))
    if "host" not in found or not is_plain:
        return "host=PRIMARY"
    return " ".join(f"{name}={found[name]}" for name in ("host", "port") if name in found)


def _look_around(cluster: Cluster, facts: Facts) -> Facts:
    """Return the facts, with what else can be asked of the standby's host."""
    if cluster.standby.patroni_file:
        with contextlib.suppress(ConsoleError):
            text = patroni.read_configuration(cluster)
            scope, name = patroni.find_identity(cluster.host.name, text)
            facts = facts._replace(member=f"{scope or 'CLUSTER'} {name or 'MEMBER'}")
    if facts.role not in UNASKED:
        with contextlib.suppress(ConsoleError):
            facts = facts._replace(primary=parse_primary(psql(cluster, ASK_CONNINFO)))
    # Patroni makes the slots of its members itself.
    if facts.role == RESTORING and not cluster.standby.patroni_file:
        with contextlib.suppress(ConsoleError):
            facts = facts._replace(slot=psql(cluster, ASK_SLOT))
    return facts


def _position_of(cluster: Cluster, row: Row) -> dict[str, Any]:
    """Return where a standby is, as far as it can be found out."""
    try:
        return find_stopped_position(cluster) if row.role in UNASKED else find_position(cluster)
    except ConsoleError:
        return NOWHERE


def _find_facts(fleet: Fleet, cluster: Cluster, row: Row) -> Facts:
    """Return what a standby and Barman say."""
    position = _position_of(cluster, row)
    found = ask_barman(fleet, cluster, position)
    try:
        return facts_of(row, position, found)
    except (KeyError, TypeError, ValueError) as error:
        answer = NotUnderstood(cluster.standby.barman_host, f"Barman's answer ({error})")
        return facts_of(row, position, {"error": str(answer)})


def with_divergence(fleet: Fleet, cluster: Optional[Cluster], row: Row) -> Row:
    """Return a row, which says of a primary whether another server is the primary.

    Patroni lets nobody else lead: its members are not asked.
    """
    if cluster is None or row.role != PRIMARY or cluster.standby.patroni_file:
        return row
    reason = why_stuck(_find_facts(fleet, cluster, row))
    return row._replace(problems=(*row.problems, reason), notes=()) if reason.startswith(DIVERGED) else row


def lines_of(fleet: Fleet, cluster: Optional[Cluster], row: Row) -> list[str]:
    """Return what to say of a standby and its ways.

    cluster: None where its host did not answer.
    """
    if cluster is None:
        return [f"{row.standby} could not be asked: {'; '.join(row.problems)}"]
    facts = _look_around(cluster, _find_facts(fleet, cluster, row))
    return describe(cluster.name, facts, find_ways(facts, cluster.host.name, cluster.standby))
