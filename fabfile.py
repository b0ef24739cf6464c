# mypy: disable-error-code="untyped-decorator"
# ruff: noqa: PLR0917 a task's parameters are its options
"""Offer the console for people: fab status, watch, ways, drill, logs and purge."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fabric import task  # type: ignore[import-untyped]
from invoke.context import Context
from rich.console import Console
from rich.live import Live

from console import drill as drills
from console import log, patroni, spool, table
from console import report as reports
from console import ways as ways_back
from console.hosts import Cluster, Fleet
from console.ssh import CONNECT_LIMIT
from console.status import UNASKED, Row, is_stuck
from console.survey import Survey
from console.text import ConsoleError, printable

# Seconds between the two snapshots of a row.
INTERVAL = 2.0
# Seconds after which `watch` goes on without a standby: a little more than it may take
# to reach one.
WAIT_LIMIT = CONNECT_LIMIT + 2.0
HELP = {
    "inventory": "FILE: Ansible's inventory, a file or a folder; may be repeated (default: as ansible.cfg says)",
    "known-hosts": "a file of host keys (default: as ssh and the inventory say)",
    "standby": "one host of the group standbys, or HOST/SERVER, when several clusters live on it (default: all)",
}


@contextmanager
def _fleet(context: Context, inventory: Sequence[str] | None, known_hosts: str, standby: str) -> Iterator[Fleet]:
    """Open the fleet. Print a ConsoleError in one line, and end with 2."""
    try:
        with Fleet(inventory or [], known_hosts, _identity(context), standby) as fleet:
            yield fleet
    except ConsoleError as error:
        print(f"fab: {error}", file=sys.stderr)
        sys.exit(2)


def _identity(context: Context) -> list[str]:
    """Return the files that --identity names. Raises ConsoleError."""
    given = context.config.connect_kwargs.get("key_filename") or []
    files = [given] if isinstance(given, str) else list(given)
    for file in files:
        try:
            with Path(file).expanduser().open("rb") as key:
                is_key = key.read(64).startswith((b"-----BEGIN ", b"ssh-", b"ecdsa-", b"sk-"))
        except OSError as error:
            raise ConsoleError(f"--identity {file} cannot be read: {error.strerror}") from error
        if not is_key:
            raise ConsoleError(f"--identity {file} is no key. Before the task -i is --identity, behind it --inventory")
    return files


@task(iterable=["inventory"], help={**HELP, "json": "one JSON object a standby, a line each"})
def status(
    c: Context, inventory: Sequence[str] | None = None, known_hosts: str = "", standby: str = "", json: bool = False
) -> None:
    """Show the status of each standby, and whether it would survive an outage.

    Ends with 1 when one would not survive, and with 2 when none answers.
    """
    with _fleet(c, inventory, known_hosts, standby) as fleet, Survey(fleet) as survey:
        survey.rows()
        time.sleep(INTERVAL)
        known = {cluster.name: cluster for cluster in survey.clusters()}
        rows = [ways_back.with_divergence(fleet, known.get(row.standby), row) for row in survey.rows()]
        clusters = patroni.survey(known.values())
    if json:
        print(*map(_to_json, rows), sep="\n")
        for members in clusters:
            if members.problem:
                print(printable(f"{members.cluster}: {members.problem}"), file=sys.stderr)
    else:
        Console().print(table.table(rows), *([patroni.table(clusters)] if clusters else []))
        for row in filter(is_stuck, rows):
            _print(f"{row.standby} cannot come back by itself. The ways: fab ways --standby {row.standby}")
    problems = [*(row.problems for row in rows), *(members.problem for members in clusters)]
    sys.exit(2 if all(row.role in UNASKED for row in rows) else any(problems))


def _to_json(row: Row) -> str:
    return json.dumps(row._asdict())


@task(iterable=["inventory"], help=HELP)
def ways(c: Context, inventory: Sequence[str] | None = None, known_hosts: str = "", standby: str = "") -> None:
    """Name the ways in which each standby can come back, with bytes and time.

    Changes nothing. Ends with 1 when one cannot come back by itself.
    """
    is_any_stuck = False
    with _fleet(c, inventory, known_hosts, standby) as fleet, Survey(fleet) as survey:
        survey.rows()
        time.sleep(INTERVAL)
        rows = survey.rows()
        known = {cluster.name: cluster for cluster in survey.clusters()}
        for row in rows:
            lines = ways_back.lines_of(fleet, known.get(row.standby), row)
            is_any_stuck |= ways_back.STUCK in lines[0]
            for line in lines:
                _print(line)
    sys.exit(int(is_any_stuck))


@task(iterable=["inventory"], help={**HELP, "seconds": "for how long (default: until Ctrl-C)"})
def watch(
    c: Context, inventory: Sequence[str] | None = None, known_hosts: str = "", standby: str = "", seconds: float = 0
) -> None:
    """Show the same, live, with a bar for each standby that catches up."""
    with _fleet(c, inventory, known_hosts, standby) as fleet, suppress(KeyboardInterrupt):
        starts: dict[str, int] = {}
        with Survey(fleet, WAIT_LIMIT) as survey, Live(console=Console(), auto_refresh=False) as live:
            survey.rows()
            left = seconds or float("inf")
            while left > 0:
                time.sleep(INTERVAL)
                rows = survey.rows()
                table.note_starts(starts, rows)
                live.update(table.table(rows, starts), refresh=True)
                left -= INTERVAL


@task(
    iterable=["inventory"],
    help={
        **HELP,
        "standby": "the standby to rehearse with: HOST, or HOST/SERVER, when several clusters live on it",
        "primary": "the primary's name in the inventory, to write a marker there (default: the archive has to move on)",
        "limit": "seconds after which streaming is given back, whatever happens (default: 300)",
        "report": "where the report goes, as a page (default: drill.html)",
        "although-alone": "also when no other standby of the inventory runs",
        "yes": "do not ask",
    },
)
def drill(
    c: Context,
    standby: str,
    inventory: Sequence[str] | None = None,
    known_hosts: str = "",
    primary: str = "",
    limit: int = 300,
    report: str = "drill.html",
    although_alone: bool = False,
    yes: bool = False,
) -> None:
    """Rehearse an outage with one standby, and write a report.

    Its streaming is interrupted, it has to restore from Barman, then it streams again.
    """
    with _fleet(c, inventory, known_hosts, standby) as fleet:
        cluster = fleet.cluster()
        rehearsal = drills.Drill(cluster, fleet.host(primary) if primary else None, limit, _tell)
        reasons = rehearsal.refusals(2 if although_alone else _count_standbys(fleet, cluster))
        if reasons:
            raise ConsoleError(f"no drill with {cluster.name}: {'; '.join(reasons)}")
        if not yes and not _agrees(f"Interrupt streaming to {cluster.name}, for {limit} seconds at most?"):
            sys.exit(1)
        page = _create(report)
        evidence = rehearsal.run()
    page.write_text(reports.html(evidence), encoding="utf-8")
    for phase in evidence.phases:
        print(f"{phase.end - phase.begin:7.1f} s  {phase.title}")
    _print(
        f"{cluster.name} survives without its primary: it has replayed {evidence.marker}, from Barman. See {report}."
    )


def _count_standbys(fleet: Fleet, cluster: Cluster) -> int:
    """Return how many standbys of the cluster's primary run, as far as it is known."""
    if cluster.standby.patroni_file:
        return patroni.count_replicas(cluster)
    return 1 + drills.count_standbys(fleet.peers(cluster, _tell), _tell)


def _create(report: str) -> Path:
    """Return the report's file, which is created if need be.

    It is called before the drill, so that the evidence is not lost after it.
    Raises ConsoleError.
    """
    page = Path(report)
    try:
        page.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConsoleError(f"the report cannot be written to {report}: {error.strerror}") from error
    return page


def _print(text: str) -> None:
    """Print one line, with words of hosts in it."""
    print(printable(text), flush=True)


def _tell(text: str) -> None:
    _print(f"... {text}")


def _agrees(question: str) -> bool:
    try:
        return input(f"{printable(question)} [y/N] ").strip().lower() == "y"
    except EOFError:
        print("fab: nobody answers; --yes does not ask", file=sys.stderr)
        return False


@task(iterable=["inventory"], help={**HELP, "lines": "how many of each log (default: 20)"})
def logs(
    c: Context, inventory: Sequence[str] | None = None, known_hosts: str = "", standby: str = "", lines: int = 20
) -> None:
    """Show the last lines about recovery: of PostgreSQL, hourly test and gate."""
    with _fleet(c, inventory, known_hosts, standby) as fleet:
        for title, text in log.excerpts(fleet, lines):
            for line in (f"== {title}", *(text or ["(nothing)"])):
                _print(line)


@task(iterable=["inventory"], help={**HELP, "yes": "do not ask"})
def purge(
    c: Context, inventory: Sequence[str] | None = None, known_hosts: str = "", standby: str = "", yes: bool = False
) -> None:
    """Empty the spools. What PostgreSQL asks for is fetched anew."""
    with _fleet(c, inventory, known_hosts, standby) as fleet:
        clusters = fleet.clusters()
        names = ", ".join(cluster.name for cluster in clusters)
        if not yes and not _agrees(f"Empty the spool of {names}?"):
            sys.exit(1)
        for cluster in clusters:
            _print(f"{cluster.name}: {spool.purge(cluster)} segments removed")
