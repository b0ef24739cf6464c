"""A rehearsal: one standby's end of its streaming is cut, and what is written then has to come from Barman."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, Optional

from . import standing
from .cut import cut
from .hosts import Cluster, Host, Standby, Trouble
from .standing import Look

# A standby that is further behind has other worries. Bytes.
MOST_LAG = 64 << 20
STEP = 1.0
# Seconds. Less would not be enough to make the cut, and to see what comes of it.
SHORTEST_LIMIT = 30
# Seconds. PostgreSQL tries to stream again every five (wal_retrieve_retry_interval).
MENDED_LIMIT = 60
# These would take the rehearsal for the real thing, and promote a standby.
FAILOVER_MANAGER = re.compile(r"(?:^|/)(repmgrd|patroni|pg_autoctl|stolon-keeper)(?= |$)", re.MULTILINE)


class Sample(NamedTuple):
    """Positions in bytes at `moment` (seconds since the drill began); None: not known then."""

    moment: float
    is_streaming: bool
    replayed: int
    primary: Optional[int]
    archived: Optional[int]
    restored: int


class Phase(NamedTuple):
    """What was proved, and from when to when (seconds since the drill began)."""

    title: str
    begin: float
    end: float


class Evidence(NamedTuple):
    """All that a drill has seen."""

    standby: str
    server: str
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
    """What there is besides the standby itself.

    peers: standbys of the same primary, itself included. synchronous: the primary's synchronous_standby_names.
    name: the standby's application_name. sources: host and port of each server that it may stream from.
    processes: the command lines on its host, a line each.
    """

    peers: int
    synchronous: str
    name: str
    sources: list[tuple[str, int]]
    processes: str


def refusals(standby: Standby, look: Look, around: Surroundings) -> Iterator[str]:
    """Why a standby must be left alone."""
    if look.server["receiver"] != "streaming":
        yield "it does not stream, so there is nothing to interrupt"
        return
    lag = int(look.server["sent"] or 0) - int(look.server["replayed"])
    if lag > MOST_LAG:
        yield f"it lags {lag >> 20} MiB behind"
    yield from standing.problems(standby, look)
    if around.peers < 2:
        yield "it is the only standby of its primary in the inventory (--although-alone, if that may be)"
    if is_synchronous(around.synchronous, around.name):
        yield f"commits may wait for it (synchronous_standby_names = '{around.synchronous}')"
    if any(host.startswith("/") for host, _ in around.sources):
        yield "it streams through a local socket, which cannot be cut"
    manager = FAILOVER_MANAGER.search(around.processes)
    if manager:
        yield f"{manager[1]} runs there, and may promote it meanwhile: stop or pause that first"


def is_synchronous(names: str, name: str) -> bool:
    """A name in a list, which may be in FIRST n (...), ANY n (...) or n (...): PostgreSQL's manual, 20.6.2."""
    listed = re.sub(r"^\s*((FIRST|ANY)\s+)?\d*\s*\((.*)\)\s*$", r"\3", names, flags=re.IGNORECASE)
    words = [word.strip().strip('"').lower() for word in listed.split(",")]
    return "*" in words or name.lower() in words


def conninfo(text: str) -> dict[str, str]:
    """The settings in pg_stat_wal_receiver's conninfo, which quotes nothing (libpqwalreceiver.c)."""
    return dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", text))


def sources(settings: dict[str, str]) -> list[tuple[str, int]]:
    """Host and port of each server that is named; libpq tries them in turn."""
    hosts = (settings.get("hostaddr") or settings.get("host") or "/").split(",")
    ports = settings.get("port", "5432").split(",")
    ports *= len(hosts) if len(ports) == 1 else 1
    return [(host or "/", int(port or 5432)) for host, port in zip(hosts, ports)]


# On the primary, whose restore points need no table, and leave nothing behind but a few bytes of WAL.
MARK = """
SELECT pg_create_restore_point(:'name') - '0/0';
SELECT pg_switch_wal() \\g /dev/null
"""
# The replication role may ask for a setting, over the connection that it streams with. Its password is in no argument.
ASK_PRIMARY = """
SELECT setting || ' replication=true' AS primary FROM pg_settings WHERE name = 'primary_conninfo' \\gset
\\c -reuse-previous=off :primary
SHOW synchronous_standby_names;
"""
IDENTITY = "SELECT system_identifier FROM pg_control_system()"


class Drill:
    """One rehearsal on one cluster. `tell` is called with each step, for people."""

    def __init__(self, cluster: Cluster, primary: Optional[Host], limit: int, tell: Callable[[str], None]) -> None:
        """limit: seconds after which the cut is undone, whatever happens. Raises Trouble."""
        if limit < SHORTEST_LIMIT:
            raise Trouble(f"--limit {limit}: no rehearsal takes less than {SHORTEST_LIMIT} seconds")
        self.cluster = cluster
        self.primary = primary
        self.limit = limit
        self.tell = tell
        self.samples: list[Sample] = []
        self.phases: list[Phase] = []
        self.segments: list[str] = []
        self._last: Optional[Look] = None
        self._began = time.monotonic()

    # Before anything is touched.

    def refusals(self, peers: int) -> list[str]:
        """Why it must not be made. peers: standbys of the same primary in the inventory. Raises Trouble."""
        first = self._look()
        settings = self._settings
        name = settings.get("application_name") or settings.get("fallback_application_name") or "walreceiver"
        synchronous = self._synchronous(first) if settings else ""
        processes = self.cluster.host.run("ps", "-eo", "args=")
        around = Surroundings(peers, synchronous, name, sources(settings), processes)
        return list(refusals(self.cluster.standby, first, around))

    def _look(self) -> Look:
        self._last = standing.look(self.cluster, self._last)
        return self._last

    @cached_property
    def _settings(self) -> dict[str, str]:
        """Those that it streams with; none when it does not."""
        return conninfo(standing.psql(self.cluster, "SELECT conninfo FROM pg_stat_wal_receiver"))

    def _synchronous(self, first: Look) -> str:
        if self.primary is not None:
            if self._ask_primary(f"{IDENTITY} WHERE NOT pg_is_in_recovery()") != standing.psql(self.cluster, IDENTITY):
                raise Trouble(f"{self.primary.name} is not the primary of {self.cluster.name}")
            return self._ask_primary("SHOW synchronous_standby_names")
        # Up to PostgreSQL 11 neither restore_command nor primary_conninfo is a setting.
        if first.server["restore_command"] is None:
            raise Trouble(f"{self.cluster.name} does not tell how it reaches its primary: name that with --primary")
        return standing.psql(self.cluster, ASK_PRIMARY)

    def _ask_primary(self, query: str, **variables: str) -> str:
        assert self.primary is not None
        # At the port that the standby streams from: others may live on that host.
        port = sources(self._settings)[0][1]
        words = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        command = (
            "sh",
            "-c",
            'script=$1; shift; printf "%s\\n" "$script" | psql -XAtqw -v ON_ERROR_STOP=1 -d postgres "$@"',
            "sh",
            query,
            "-p",
            str(port),
            *words,
        )
        return self.primary.run(*command, user="postgres").strip()

    # The rehearsal.

    def run(self) -> Evidence:
        """Raises Trouble, after the cut was undone."""
        first = self._look()
        wall, self._began = time.time(), time.monotonic()
        self.sample()
        with cut(self.cluster, sources(self._settings), self.limit, self.tell):
            with self._phase("streaming is interrupted"):
                self._watch(lambda sample: not sample.is_streaming, "the end of streaming", self.limit)
            with self._phase("the primary writes on"):
                marker, goal = self._mark(int(first.server["segment_size"]))
            with self._phase("the standby restores from Barman"):
                self._watch(lambda sample: sample.replayed >= goal, f"the replay of {marker}", self.limit)
            if self._has_streamed(goal):
                raise Trouble(f"{self.cluster.name} has streamed in between: nothing is proved")
        with self._phase("streaming is given back"):
            # Where it could not be given back, the timer does it.
            self._watch(lambda sample: sample.is_streaming, "streaming", max(self._now(), self.limit) + MENDED_LIMIT)
        standby = self.cluster.standby
        return Evidence(
            standby=self.cluster.name,
            server=standby.barman_server,
            barman_host=standby.barman_host,
            version=first.server["version"],
            restore_command=standby.restore_command,
            began=wall,
            marker=marker,
            goal=goal,
            segments=self.segments,
            phases=self.phases,
            samples=self.samples,
        )

    def _has_streamed(self, goal: int) -> bool:
        """What was replayed had been received over the connection that should have been cut."""
        since = self.phases[0].end
        return self._received() >= goal or any(sample.is_streaming for sample in self.samples if sample.moment > since)

    def _received(self) -> int:
        """Up to where it has streamed, in bytes."""
        return int(standing.psql(self.cluster, "SELECT pg_last_wal_receive_lsn() - '0/0'") or 0)

    @contextmanager
    def _phase(self, title: str) -> Iterator[None]:
        self.tell(title)
        begin = self._now()
        yield
        self.phases.append(Phase(title, begin, self._now()))

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _mark(self, size: int) -> tuple[str, int]:
        """What has to be replayed, in words and as a position in bytes. size: of a segment."""
        if self.primary is not None:
            name = f"walbasin drill {time.strftime('%Y-%m-%d %H:%M:%S')}"
            return f"the restore point '{name}'", int(self._ask_primary(MARK, name=name).splitlines()[0])
        streamed = max(self._received(), self.samples[-1].replayed)
        return "the segment that was being written", (streamed // size + 1) * size

    def _watch(self, is_over: Callable[[Sample], bool], what: str, end: float) -> None:
        """end: in seconds since the drill began. Raises Trouble."""
        while not is_over(self.sample()):
            if self._now() > end:
                raise Trouble(f"{self.cluster.name}: {what} has not come within {end:.0f} seconds")
            time.sleep(STEP)

    def sample(self) -> Sample:
        """Raises Trouble."""
        now = self._look()
        if not now.server["is_recovering"]:
            raise Trouble(f"{self.cluster.name} was promoted meanwhile")
        last = now.status["record"]["last_segment"]
        if self.samples and now.status["record"]["restored"] > self.samples[0].restored and last not in self.segments:
            self.segments.append(last)
        primary = None
        if self.primary is not None:
            primary = int(self._ask_primary("SELECT pg_current_wal_lsn() - '0/0'"))
        streaming = now.server["receiver"] == "streaming"
        restored = int(now.status["record"]["restored"])
        self.samples.append(
            Sample(self._now(), streaming, int(now.server["replayed"]), primary, now.archive.end, restored)
        )
        return self.samples[-1]
