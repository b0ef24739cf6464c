"""Measure what a restore_command costs, when replay is only played."""

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.fake_server import Calls
from tests.support.processes import ME

from .. import rows
from ..contest import CP, LIMIT, MV, NO_GATE, OURS, PGBACKREST, STOCK, Contest, Entrants
from ..field import ABSENT, JOBS, STEADY, Field, Standby
from ..rows import STANDBYS

# Seconds that PostgreSQL takes to replay a segment.
REPLAY = 0.1
# Calls for a segment that is not there.
MISSES = 8
# Segments that are fetched while replay takes its time.
REPLAYED = 16


def throughput(kind: str) -> Contest:
    """Measure segments a second when replay costs nothing, and the CPU of both sides.

    It begins with nothing running.
    """

    rate = rows.RATE.format(kind)

    @contextlib.contextmanager
    def contest(field: Field, standby: Standby) -> Iterator[Entrants]:
        def fetch(command: Callable[[], str], count: int = len(field.names)) -> Callable[[], dict[str, float]]:
            def run() -> dict[str, float]:
                trial = standby.trial(command(), field.names[:count])
                return {
                    rate: count / sum(trial.seconds),
                    rows.STANDBY_CPU.format(kind): 1000 * trial.standby_cpu / count,
                    rows.BARMAN_CPU.format(kind): 1000 * trial.host_cpu / count,
                }

            return run

        def stream() -> dict[str, float]:
            return {rate: len(field.names) / stream_seconds(field, field.names)}

        entrants: Entrants = {
            OURS: fetch(lambda: standby.ours(kind=kind)),
            STOCK: fetch(lambda: standby.stock(kind), STEADY),
            PGBACKREST: fetch(lambda: standby.pgbackrest(kind)),
        }
        if kind == "plain":
            entrants |= {
                NO_GATE: fetch(lambda: standby.ours("stock")),
                CP: fetch(standby.cp),
                MV: fetch(standby.mv),
                LIMIT: stream,
            }
        yield entrants

    return contest


def stream_seconds(field: Field, names: list[str]) -> float:
    """Return how long one ssh takes to bring files into a file, handshake included."""
    command = ["ssh", "-F", str(field.barman.client / "ssh_config"), "-l", ME, "stock"]
    with tempfile.TemporaryFile(dir=field.folder) as file:
        started = time.monotonic()
        subprocess.run([*command, f"cd {field.local} && cat {' '.join(names)}"], stdout=file, check=True)
        return time.monotonic() - started


@contextlib.contextmanager
def waiting(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure what PostgreSQL waits for a segment, when replay takes REPLAY of each."""

    def fetch(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            seconds = standby.trial(command(), field.names[:REPLAYED], REPLAY).seconds
            return {rows.WAIT: 1000 * statistics.median(seconds[1:])}

        return run

    yield {
        OURS: fetch(standby.ours),
        STOCK: fetch(standby.stock),
        PGBACKREST: fetch(standby.pgbackrest),
        CP: fetch(standby.cp),
        MV: fetch(standby.mv),
    }


@contextlib.contextmanager
def hits(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure what PostgreSQL waits for a segment that is in the spool."""

    def ours() -> dict[str, float]:
        standby.settle()
        command = standby.ours(options=f"-p {len(field.names)}")
        first, *rest = field.names
        standby.call(command, [first])
        standby.wait_for_spooled(rest)
        with without_python(field):  # so that a call which is no hit fails
            return {rows.HIT: 1000 * statistics.median(standby.call(command, rest))}

    def local(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        return lambda: {rows.HIT: 1000 * statistics.median(standby.trial(command(), field.names).seconds)}

    yield {OURS: ours, CP: local(standby.cp), MV: local(standby.mv)}


@contextlib.contextmanager
def without_python(field: Field) -> Iterator[None]:
    """Let no call of the fetcher start Python: only a hit does without."""
    interpreter = field.fetcher.parent / "interpreter"
    python = interpreter.read_text()
    interpreter.write_text("/bin/false\n")
    try:
        yield
    finally:
        interpreter.write_text(python)


@contextlib.contextmanager
def cold_start(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure the first segment, with nothing running.

    The limit: one ssh that brings it.
    """

    def fetch(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        return lambda: {rows.COLD: 1000 * standby.trial(command(), field.names[:1]).seconds[0]}

    yield {
        OURS: fetch(standby.ours),
        NO_GATE: fetch(lambda: standby.ours("stock")),
        STOCK: fetch(standby.stock),
        PGBACKREST: fetch(standby.pgbackrest),
        LIMIT: lambda: {rows.COLD: 1000 * stream_seconds(field, field.names[:1]), rows.HANDSHAKE: handshake(field)},
    }


@contextlib.contextmanager
def crowd(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure the first segment, with nothing running, of a Barman with many servers.

    The limit: the same with those that it has anyway.
    """

    def fetch() -> dict[str, float]:
        return {rows.COLD_CROWD: 1000 * standby.trial(standby.ours(), field.names[:1]).seconds[0]}

    def crowded() -> dict[str, float]:
        with field.barman.crowded(rows.SERVERS):
            return fetch()

    yield {OURS: crowded, LIMIT: fetch}


def handshake(field: Field) -> float:
    """Return the milliseconds of an ssh that brings nothing."""
    return 1000 * stream_seconds(field, ["/dev/null"])


@contextlib.contextmanager
def misses(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure how long it takes to be told that a segment is not there."""

    def ask(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            seconds = standby.trial(command(), [field.names[0], *[ABSENT] * MISSES]).seconds
            return {rows.MISS: 1000 * statistics.median(seconds[1:])}

        return run

    yield {OURS: ask(standby.ours), STOCK: ask(standby.stock), PGBACKREST: ask(standby.pgbackrest)}


@contextlib.contextmanager
def two_hosts(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure a miss at two hosts, and segments a second when the first one is dead.

    The limit: a single host. Both names are those of the same host.
    """

    def ask(command: str) -> dict[str, float]:
        seconds = standby.trial(command, [field.names[0], *[ABSENT] * MISSES]).seconds
        return {rows.MISS_OF_TWO: 1000 * statistics.median(seconds[1:])}

    def fetch(command: str) -> dict[str, float]:
        # The connection to the first host is refused at once, for the first segment.
        return {rows.ONE_DEAD: len(field.names) / sum(standby.trial(command, field.names).seconds)}

    yield {
        OURS: lambda: ask(standby.ours("gate,greeter")) | fetch(standby.ours("refused,gate")),
        LIMIT: lambda: ask(standby.ours("gate")) | fetch(standby.ours("gate")),
    }


@contextlib.contextmanager
def many(field: Field, _: Standby) -> Iterator[Entrants]:
    """Measure several standbys at once. The limit: the same, one after the other.

    Both have the same bytes to wait for on the disk.
    """
    standbys = [field.standby() for _ in range(STANDBYS)]
    names = field.names

    def settle() -> None:
        for each in standbys:
            each.settle()

    def check(calls: list[Calls]) -> None:
        for each, its_calls in zip(standbys, calls, strict=True):
            each.check(its_calls)

    def together() -> dict[str, float]:
        settle()
        for each in standbys:
            each.begin(each.ours(), names)
        calls = [each.finish() for each in standbys]
        check(calls)
        seconds = [sum(each.seconds) for each in calls]
        return {rows.MANY: STANDBYS * len(names) / max(seconds), rows.FAIR: min(seconds) / max(seconds)}

    def in_turn() -> dict[str, float]:
        settle()
        calls = []
        for each in standbys:
            each.begin(each.ours(), names)
            calls.append(each.finish())
        check(calls)
        return {rows.MANY: STANDBYS * len(names) / sum(sum(each.seconds) for each in calls)}

    yield {OURS: together, LIMIT: in_turn}


@contextlib.contextmanager
def memory(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure the memory of the prefetch process, when its spool is full."""

    def measure(jobs: int) -> float:
        standby.settle()
        standby.call(standby.ours(options=f"-p {jobs}"), field.names[:1])
        standby.wait_for_spooled(field.names[1:jobs])
        return max(map(peak_memory, standby.prefetch_processes())) / 1024

    yield {OURS: lambda: {rows.MEMORY.format(jobs): measure(jobs) for jobs in (JOBS, len(field.names))}}


def peak_memory(pid: int) -> int:
    """Return the KiB that a process had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
