"""Rehearse an outage: cut a standby off, and see it restore from Barman."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, Optional

from . import nostream, patroni, status
from .answers import parse_count
from .hosts import Cluster, Host, Standby
from .outage import Interruption, outage
from .partition import partition
from .snapshot import MOST_PRINTED, Snapshot, psql, take_snapshot
from .text import ConsoleError

# Bytes. A standby that is further behind has other worries.
MOST_LAG = 64 << 20
# Seconds between two samples.
STEP = 1.0
# Seconds. With less there is no time to cut the standby off and to see what follows.
SHORTEST_LIMIT = 30
# Seconds. PostgreSQL tries to stream again every five (wal_retrieve_retry_interval).
HEALED_LIMIT = 60
# Programs that would take the rehearsal for an outage, and promote a standby.
FAILOVER_MANAGER = re.compile(r"(?:^|/)(repmgrd|patroni|pg_autoctl|stolon-keeper|pacemakerd)(?= |$)", re.MULTILINE)


class Sample(NamedTuple):
    """Hold where primary, archive and standby were at a moment.

    moment: seconds since the drill began. Positions are in bytes; None: not known then.
    restored: how many segments the fetcher has handed over, ever.
    """

    moment: float
    is_streaming: bool
    replayed: int
    primary: Optional[int]
    archived: Optional[int]
    restored: int


class Phase(NamedTuple):
    """Hold what was proved, and from when to when (seconds since it began)."""

    title: str
    begin: float
    end: float


class Evidence(NamedTuple):
    """Hold all that a drill has seen. began: seconds since 1970. goal: in bytes."""

    standby: str
    barman_server: str
    barman_host: str
    version: str
    restore_command: str
    began: float
    marker: str
    goal: int
    segments: list[str]
    phases: list[Phase]
    samples: list[Sample]


class Surroundings(NamedTuple):
    """Hold what there is besides the standby itself.

    peers: standbys of the same primary that run, itself included. synchronous: the
    primary's synchronous_standby_names. application_name: the standby's. primaries:
    host and port of each server that it may stream from. processes: the command lines
    on its host, a line each.
    """

    peers: int
    synchronous: str
    application_name: str
    primaries: list[tuple[str, int]]
    processes: str


def refusals(standby: Standby, now: Snapshot, around: Surroundings) -> Iterator[str]:
    """Return the reasons why a standby must be left alone."""
    if not now.postgres["is_recovering"] or now.postgres["receiver"] != "streaming":
        yield "it does not stream, so there is nothing to interrupt"
        return
    lag = int(now.postgres["sent"] or 0) - int(now.postgres["replayed"])
    if lag > MOST_LAG:
        yield f"it lags {lag >> 20} MiB behind"
    yield from status.problems(standby, now)
    if around.peers < 2:
        yield "it is the only standby of its primary that is known to run (--although-alone, if that may be)"
    if is_synchronous(around.synchronous, around.application_name):
        yield f"commits may wait for it (synchronous_standby_names = '{around.synchronous}')"
    if any(host.startswith("/") for host, _ in around.primaries):
        yield "it streams through a local socket, which cannot be cut"
    # Patroni promotes nobody while the leader holds its lock, which is not cut.
    harmless = "patroni" if standby.patroni_file else ""
    manager = next((name for name in FAILOVER_MANAGER.findall(around.processes) if name != harmless), "")
    if manager:
        yield f"{manager} runs there, and may promote it meanwhile: stop or pause that first"


def is_synchronous(names: str, application_name: str) -> bool:
    """Return whether synchronous_standby_names has this name in it.

    The list may be in FIRST n (...), ANY n (...) or n (...): PostgreSQL's manual,
    20.6.2.
    """
    listed = re.sub(r"^\s*((FIRST|ANY)\s+)?\d*\s*\((.*)\)\s*$", r"\3", names, flags=re.IGNORECASE)
    words = [word.strip().strip('"').lower() for word in listed.split(",")]
    return "*" in words or application_name.lower() in words


def parse_conninfo(text: str) -> dict[str, str]:
    """Return the settings in pg_stat_wal_receiver's conninfo.

    It quotes nothing (libpqwalreceiver.c).
    """
    return dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", text))


def primaries(settings: dict[str, str]) -> list[tuple[str, int]]:
    """Return host and port of each server in a conninfo; libpq tries them in turn.

    Raises ConsoleError when a port is none.
    """
    hosts = (settings.get("hostaddr") or settings.get("host") or "/").split(",")
    ports = [port.strip() or "5432" for port in settings.get("port", "").split(",")]
    ports *= len(hosts) if len(ports) == 1 else 1
    strange = [port for port in ports if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16]
    if strange or len(ports) != len(hosts):
        raise ConsoleError(f"not understood: it streams from port {', '.join(strange or ports)}")
    return [(host or "/", int(port)) for host, port in zip(hosts, ports)]


# Run it on the primary. A restore point needs no table, and leaves a few bytes of WAL.
WRITE_MARKER = """
SELECT pg_create_restore_point(:'name') - '0/0';
SELECT pg_switch_wal() \\g /dev/null
"""
# Ask the primary for the setting with the standby's own connection: the replication
# role may do that, and its password is in no argument.
ASK_PRIMARY = """
SELECT setting || ' replication=true' AS primary FROM pg_settings WHERE name = 'primary_conninfo' \\gset
\\c -reuse-previous=off :primary
SHOW synchronous_standby_names;
"""
IS_RECOVERING = "SELECT pg_is_in_recovery()"
IDENTITY = "SELECT system_identifier FROM pg_control_system()"
PSQL = 'script=$1; shift; printf "%s\\n" "$script" | psql -XAtqw -v ON_ERROR_STOP=1 -d postgres "$@"'


def count_standbys(clusters: Iterable[Cluster], tell: Callable[[str], None]) -> int:
    """Return how many are standbys that run. Tell of those that cannot be asked.

    A primary may be in the group, so that it is ready for the other role.
    """
    count = 0
    for cluster in clusters:
        try:
            count += psql(cluster, IS_RECOVERING) == "t"
        except ConsoleError as error:
            tell(str(error))
    return count


class Drill:
    """Rehearse on one cluster. `tell` is called with each step, for people."""

    def __init__(self, cluster: Cluster, primary: Optional[Host], limit: int, tell: Callable[[str], None]) -> None:
        """Prepare a drill that cuts the standby off for `limit` seconds at most.

        primary: where a marker is written; None: the archive has to go on by itself.
        Raises ConsoleError.
        """
        if limit < SHORTEST_LIMIT:
            raise ConsoleError(f"--limit {limit}: no rehearsal takes less than {SHORTEST_LIMIT} seconds")
        self.cluster = cluster
        self.primary = primary
        self.limit = limit
        self.tell = tell
        self.samples: list[Sample] = []
        self.phases: list[Phase] = []
        self.segments: list[str] = []
        self._last: Optional[Snapshot] = None
        self._began = time.monotonic()

    # Before anything is touched.

    def refusals(self, peers: int) -> list[str]:
        """Return the reasons against it.

        peers: standbys of the same primary that run. Raises ConsoleError.
        """
        first = self._take_snapshot()
        settings = self._settings
        around = Surroundings(
            peers=peers,
            synchronous=self._synchronous(first) if settings else "",
            application_name=settings.get("application_name")
            or settings.get("fallback_application_name")
            or "walreceiver",
            primaries=self._primaries,
            # Of these users only: anybody can start a program with such a name.
            processes=self.cluster.host.run("ps", "-u", f"root,{self.cluster.standby.postgres_user}", "-o", "args="),
        )
        return list(refusals(self.cluster.standby, first, around))

    def _take_snapshot(self) -> Snapshot:
        self._last = take_snapshot(self.cluster, self._last)
        return self._last

    @cached_property
    def _settings(self) -> dict[str, str]:
        """Return the conninfo that it streams with; empty when it does not stream."""
        return parse_conninfo(psql(self.cluster, "SELECT conninfo FROM pg_stat_wal_receiver"))

    @cached_property
    def _primaries(self) -> list[tuple[str, int]]:
        """Return what it streams from. Raises ConsoleError."""
        try:
            return primaries(self._settings)
        except ConsoleError as error:
            raise ConsoleError(f"{self.cluster.name}: {error}") from error

    def _synchronous(self, first: Snapshot) -> str:
        """Return the primary's synchronous_standby_names. Raises ConsoleError."""
        if self.primary is not None:
            if self._ask_primary(f"{IDENTITY} WHERE NOT pg_is_in_recovery()") != psql(self.cluster, IDENTITY):
                raise ConsoleError(f"{self.primary.name} is not the primary of {self.cluster.name}")
            return self._ask_primary("SHOW synchronous_standby_names")
        # Up to PostgreSQL 11 neither restore_command nor primary_conninfo is a setting.
        if first.postgres["restore_command"] is None:
            raise ConsoleError(
                f"{self.cluster.name} does not tell how it reaches its primary: name that with --primary"
            )
        return psql(self.cluster, ASK_PRIMARY)

    def _ask_primary(self, query: str, **variables: str) -> str:
        assert self.primary is not None
        # Use the port that the standby streams from: the host may have more clusters.
        port = self._primaries[0][1]
        options = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        words = ("sh", "-c", PSQL, "sh", query, "-p", str(port), *options)
        return self.primary.run(*words, user="postgres", most=MOST_PRINTED).strip()

    # The rehearsal.

    def run(self) -> Evidence:
        """Rehearse, and return the evidence.

        Raises ConsoleError, after the standby's connection was given back.
        """
        first = self._take_snapshot()
        interruption = self._choose_interruption(first.postgres["version"])
        began, self._began = time.time(), time.monotonic()
        self.sample()
        with outage(self.cluster, interruption, self.limit, self.tell):
            with self._phase("streaming is interrupted"):
                self._wait(lambda sample: not sample.is_streaming, "the end of streaming", self.limit)
            with self._phase("the primary writes on"):
                marker, goal = self._write_marker(int(first.postgres["segment_size"]))
            with self._phase("the standby restores from Barman"):
                self._wait(lambda sample: sample.replayed >= goal, f"the replay of {marker}", self.limit)
            if self._has_streamed(goal):
                raise ConsoleError(f"{self.cluster.name} has streamed in between: nothing is proved")
        with self._phase("streaming is given back"):
            # Wait for the timer too: it heals what this drill could not.
            self._wait(lambda sample: sample.is_streaming, "streaming", max(self._now(), self.limit) + HEALED_LIMIT)
        standby = self.cluster.standby
        return Evidence(
            standby=self.cluster.name,
            barman_server=standby.barman_server,
            barman_host=standby.barman_host,
            version=first.postgres["version"],
            restore_command=standby.restore_command,
            began=began,
            marker=marker,
            goal=goal,
            segments=self.segments,
            phases=self.phases,
            samples=self.samples,
        )

    def _choose_interruption(self, server_version: str) -> Interruption:
        """Return how streaming is interrupted. Raises ConsoleError.

        By Patroni itself, where it can: it needs no rule in the kernel.
        """
        if self.cluster.standby.patroni_file:
            text = patroni.read_configuration(self.cluster)
            scope, member = patroni.find_identity(self.cluster.host.name, text)
            versions = patroni.versions(self.cluster, scope, member)
            dynamic = patroni.dynamic_configuration(self.cluster)
            if nostream.can_stop_streaming(member, versions, server_version, dynamic):
                interruption = nostream.nostream(self.cluster, text)
                try:
                    interruption.require(self.cluster.host)
                    return interruption
                except ConsoleError as error:
                    self.tell(f"Patroni cannot do it, so the packet filter does: {error}")
        return partition(self.cluster, self._primaries)

    def _has_streamed(self, goal: int) -> bool:
        """Return whether the connection that was cut has carried what was replayed."""
        since = self.phases[0].end
        return self._received() >= goal or any(sample.is_streaming for sample in self.samples if sample.moment > since)

    def _received(self) -> int:
        """Return the position up to which it has streamed, in bytes."""
        answer = psql(self.cluster, "SELECT pg_last_wal_receive_lsn() - '0/0'")
        return parse_count(self.cluster.host.name, answer or "0")

    @contextmanager
    def _phase(self, title: str) -> Iterator[None]:
        self.tell(title)
        begin = self._now()
        yield
        self.phases.append(Phase(title, begin, self._now()))

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _write_marker(self, size: int) -> tuple[str, int]:
        """Return what has to be replayed, in words and as a position in bytes.

        size: of a segment, in bytes.
        """
        if self.primary is not None:
            name = f"walbasin drill {time.strftime('%Y-%m-%d %H:%M:%S')}"
            position = self._ask_primary(WRITE_MARKER, name=name).partition("\n")[0]
            return f"the restore point '{name}'", parse_count(self.primary.name, position)
        streamed = max(self._received(), self.samples[-1].replayed)
        return "the segment that was being written", (streamed // size + 1) * size

    def _wait(self, is_over: Callable[[Sample], bool], what: str, end: float) -> None:
        """Take samples until one says that it is over.

        end: in seconds since the drill began. Raises ConsoleError after that.
        """
        while not is_over(self.sample()):
            if self._now() > end:
                raise ConsoleError(f"{self.cluster.name}: {what} has not come within {end:.0f} seconds")
            time.sleep(STEP)

    def sample(self) -> Sample:
        """Take one more sample, and return it.

        Raises ConsoleError.
        """
        now = self._take_snapshot()
        if not now.postgres["is_recovering"]:
            raise ConsoleError(f"{self.cluster.name} was promoted meanwhile")
        counters = now.fetcher["counters"]
        last, restored = counters["last_segment"], int(counters["restored"])
        if self.samples and restored > self.samples[0].restored and last not in self.segments:
            self.segments.append(last)
        primary = None
        if self.primary is not None:
            primary = parse_count(self.primary.name, self._ask_primary("SELECT pg_current_wal_lsn() - '0/0'"))
        self.samples.append(
            Sample(
                moment=self._now(),
                is_streaming=now.postgres["receiver"] == "streaming",
                replayed=int(now.postgres["replayed"]),
                primary=primary,
                archived=now.archive.end,
                restored=restored,
            )
        )
        return self.samples[-1]
