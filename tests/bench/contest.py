"""What is measured, and who takes part in it. `limit` is what cannot be surpassed, or what it is compared with.

A contest gives for each contender a function that is called once a round, and returns what it measured: row -> value.
"""

import contextlib
import socket
import statistics
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2

from tests.support.postgres import SEGMENT_SIZE, Server
from tests.support.processes import ME, POSTGRES, give, wait_until

from .field import ABSENT, JOBS, Field, Standby

OURS, NO_GATE, STOCK, PGBACKREST = "ours", "ours, no gate", "stock", "pgBackRest"
CP, MV, LIMIT = "cp", "mv", "limit"

Entrants = dict[str, Callable[[], dict[str, float]]]
Contest = Callable[[Field, Standby], contextlib.AbstractContextManager[Entrants]]

# Seconds. A contender that replays in REPLAY seconds, a connection's handshake, a wide and a narrow network.
REPLAY = 0.1
WIDE = 0.025
NARROW, NARROW_RATE = 0.01, 100_000_000 // 8
MISSES = 8
HITS = 16
STANDBYS = 8
# Segments: the rate of Barman's own client is the same for each batch of JOBS, so it need not fetch them all.
STEADY = 2 * JOBS
# Longer than a round: what PostgreSQL does by itself in between is not to be measured.
RETRY_INTERVAL = "60s"


def throughput(kind: str) -> Contest:
    """Segments a second when replay costs nothing, from nothing running on, and the CPU of both sides."""

    @contextlib.contextmanager
    def contest(field: Field, standby: Standby) -> Iterator[Entrants]:
        def fetch(command: Callable[[], str], count: int = len(field.names)) -> Callable[[], dict[str, float]]:
            def run() -> dict[str, float]:
                trial = standby.trial(command(), field.names[:count])
                return {
                    f"segments a second, {kind} archive": count / sum(trial.seconds),
                    f"CPU a segment on the standby, {kind}, ms": 1000 * trial.standby_cpu / count,
                    f"CPU a segment on the Barman host, {kind}, ms": 1000 * trial.host_cpu / count,
                }

            return run

        def stream() -> dict[str, float]:
            return {f"segments a second, {kind} archive": len(field.names) / stream_seconds(field, field.names)}

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
    """How long one ssh takes to bring these segments into a file, handshake included."""
    command = ["ssh", "-F", str(field.barman.client / "ssh_config"), "-l", ME, "stock"]
    with tempfile.TemporaryFile(dir=field.folder) as file:
        started = time.monotonic()
        subprocess.run([*command, f"cd {field.local} && cat {' '.join(names)}"], stdout=file, check=True)
        return time.monotonic() - started


@contextlib.contextmanager
def waiting(field: Field, standby: Standby) -> Iterator[Entrants]:
    """What PostgreSQL waits for a segment when it takes REPLAY to replay one."""

    def fetch(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            seconds = standby.trial(command(), field.names[:HITS], REPLAY).seconds
            return {"wait a segment at 100 ms replay, ms": 1000 * statistics.median(seconds[1:])}

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
    """What PostgreSQL waits for a segment that is there, while nothing else goes on."""
    row = "a spool hit, ms"

    def ours() -> dict[str, float]:
        standby.settle()
        command = standby.ours(options=f"-p {len(field.names)}")
        standby.call(command, field.names[:1])
        standby.wait_for_spooled(field.names[-1])
        return {row: 1000 * statistics.median(standby.call(command, field.names[1:]))}

    def local(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        return lambda: {row: 1000 * statistics.median(standby.trial(command(), field.names).seconds)}

    yield {OURS: ours, CP: local(standby.cp), MV: local(standby.mv)}


@contextlib.contextmanager
def cold_start(field: Field, standby: Standby) -> Iterator[Entrants]:
    """The first segment, with nothing running. The limit: one ssh that brings it."""
    row = "first segment after a cold start, ms"

    def fetch(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        return lambda: {row: 1000 * standby.trial(command(), field.names[:1]).seconds[0]}

    yield {
        OURS: fetch(standby.ours),
        NO_GATE: fetch(lambda: standby.ours("stock")),
        STOCK: fetch(standby.stock),
        PGBACKREST: fetch(standby.pgbackrest),
        LIMIT: lambda: {row: 1000 * stream_seconds(field, field.names[:1]), "an ssh handshake, ms": handshake(field)},
    }


def handshake(field: Field) -> float:
    return 1000 * stream_seconds(field, ["/dev/null"])


@contextlib.contextmanager
def misses(field: Field, standby: Standby) -> Iterator[Entrants]:
    """How long it takes to be told that a segment is not there, with the connection open."""

    def ask(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            seconds = standby.trial(command(), [field.names[0], *[ABSENT] * MISSES]).seconds
            return {"a miss, connection open, ms": 1000 * statistics.median(seconds[1:])}

        return run

    yield {OURS: ask(standby.ours), STOCK: ask(standby.stock), PGBACKREST: ask(standby.pgbackrest)}


# Real servers.


def replayed(server: Server, name: str) -> bool:
    """Whether all of this segment has been replayed."""
    end = (int(name[8:16], 16) << 32) + (int(name[16:], 16) + 1) * SEGMENT_SIZE
    with connected(server) as cursor:
        cursor.execute("SELECT pg_last_wal_replay_lsn() - '0/0' >= %s", (end,))
        return bool(cursor.fetchone()[0])


@contextlib.contextmanager
def connected(server: Server) -> Iterator[Any]:
    connection = psycopg2.connect(host="127.0.0.1", port=server.port, user=POSTGRES, dbname="postgres")
    connection.autocommit = True
    try:
        yield connection.cursor()
    finally:
        connection.close()


@contextlib.contextmanager
def running(field: Field, template: Server, restore_command: Callable[[Path], str]) -> Iterator[Server]:
    """A real standby on a copy of `template`. The restore_command may depend on the data directory."""
    data = template.data.parent / "standby"
    subprocess.run(["rm", "-rf", data], check=True)
    server = template.copy(data, archive_mode="off", restore_command=restore_command(data))
    server.configure(wal_retrieve_retry_interval=RETRY_INTERVAL)
    (data / "standby.signal").touch()
    give(data / "standby.signal")
    try:
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def recovery(field: Field, standby: Standby) -> Iterator[Entrants]:
    """A real standby, from its start until it has replayed everything."""

    def recover(command: Callable[[Path], str]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            standby.settle()
            with running(field, field.base, command) as server:
                started = time.monotonic()
                server.start()
                wait_until(lambda: replayed(server, field.names[-1]), "recovery", 120, step=0.01)
                return {"a real standby's recovery, s": time.monotonic() - started}

        return run

    yield {
        OURS: recover(lambda data: standby.ours()),
        STOCK: recover(lambda data: standby.stock()),
        PGBACKREST: recover(lambda data: standby.pgbackrest(data=data)),
        CP: recover(lambda data: standby.cp()),
    }


@contextlib.contextmanager
def promotion(field: Field, standby: Standby) -> Iterator[Entrants]:
    """From the request on until it is no longer in recovery: of a standby that has all there is."""
    with running(field, field.base, lambda data: standby.cp()) as server:
        server.start()
        wait_until(lambda: replayed(server, field.names[-1]), "recovery", 120, step=0.1)
        server.stop()
        caught_up = server.copy(server.data.parent / "caught-up")

    def promote(row: str, command: str, is_cold: bool = False) -> dict[str, float]:
        standby.settle()
        with running(field, caught_up, lambda data: command) as server:
            server.start()
            time.sleep(2)  # by now it has been told that there is no more
            if is_cold:
                standby.end_prefetch_process()
            with connected(server) as cursor:
                started = time.monotonic()
                cursor.execute("SELECT pg_promote(wait => false)")
                wait_until(lambda: is_primary(cursor), "promotion", 60, step=0.005)
                return {row: time.monotonic() - started}

    def is_primary(cursor: Any) -> bool:
        cursor.execute("SELECT pg_is_in_recovery()")
        return not cursor.fetchone()[0]

    def ours() -> dict[str, float]:
        warm = promote("promotion, connection open, s", standby.ours())
        return warm | promote("promotion, cold, s", standby.ours(), is_cold=True)

    def black_holed() -> dict[str, float]:
        with black_hole() as port:
            standby_there = field.standby(field.barman.reach_through(port))
            return promote("promotion, Barman black-holed, s", standby_there.ours(), is_cold=True)

    yield {
        LIMIT: lambda: promote("promotion, connection open, s", "/bin/false"),
        OURS: lambda: ours() | black_holed(),
    }


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port from which no answer comes: its queue is full, so that Linux drops what else would connect."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            guest = stack.enter_context(socket.socket())
            guest.setblocking(False)
            guest.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


# Networks.


@contextlib.contextmanager
def wide(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Behind a relay with a round trip of 50 ms, and behind the same without."""
    row = "segments a second at 50 ms round trip"
    with field.far(WIDE) as far, field.far(0) as near:

        def fetch(
            there: Standby, command: Callable[[], str], count: int = len(field.names)
        ) -> Callable[[], dict[str, float]]:
            def run() -> dict[str, float]:
                # What it takes to find out how many connections help is over by then.
                seconds = there.trial(command(), field.names[:count]).seconds[count // 3 :]
                return {row: len(seconds) / sum(seconds)}

            return run

        yield {
            OURS: fetch(far, far.ours),
            STOCK: fetch(far, far.stock, STEADY),
            PGBACKREST: fetch(far, far.pgbackrest),
            LIMIT: fetch(near, near.ours),
        }


@contextlib.contextmanager
def narrow(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Behind 100 Mbit/s and a round trip of 20 ms. The limit: the compressed bytes, and the link with nothing else."""
    row = "segments a second at 100 Mbit/s, {}"
    names = field.names
    stored = [field.barman.file("angus_gzip", name).stat().st_size for name in names]
    squeezed = [len(zlib.compress((field.local / name).read_bytes(), 1)) for name in names]
    with field.far(NARROW, NARROW_RATE) as far:

        def fetch(what: str, command: str, count: int = len(names)) -> dict[str, float]:
            return {row.format(what): count / sum(far.trial(command, names[:count]).seconds)}

        yield {
            OURS: lambda: fetch("gzip archive", far.ours(kind="gzip")) | fetch("-z", far.ours(options=f"-p {JOBS} -z")),
            STOCK: lambda: fetch("gzip archive", far.stock("gzip"), STEADY),
            PGBACKREST: lambda: fetch("gzip archive", far.pgbackrest("gzip")),
            LIMIT: lambda: {
                row.format("gzip archive"): NARROW_RATE * len(names) / sum(stored),
                row.format("-z"): NARROW_RATE * len(names) / sum(squeezed),
            },
        }


@contextlib.contextmanager
def many(field: Field, _: Standby) -> Iterator[Entrants]:
    """Several standbys at once on one Barman host, and one after the other: so many bytes have to wait for the disk."""
    standbys = [field.standby() for _ in range(STANDBYS)]
    names = field.names

    row = f"segments a second, {STANDBYS} standbys"

    def settle() -> None:
        for each in standbys:
            each.settle()

    def check() -> None:
        for each in standbys:
            each.check()

    def together() -> dict[str, float]:
        settle()
        for each in standbys:
            each.begin(each.ours(), names)
        finished = [sum(each.finish()) for each in standbys]
        check()
        return {
            row: STANDBYS * len(names) / max(finished),
            "the slowest of them, of the fastest": min(finished) / max(finished),
        }

    def in_turn() -> dict[str, float]:
        settle()
        seconds = 0.0
        for each in standbys:
            each.begin(each.ours(), names)
            seconds += sum(each.finish())
        check()
        return {row: STANDBYS * len(names) / seconds}

    yield {OURS: together, LIMIT: in_turn}


@contextlib.contextmanager
def memory(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Of the prefetch process, when its spool is full."""

    def measure(jobs: int) -> float:
        standby.settle()
        standby.call(standby.ours(options=f"-p {jobs}"), field.names[:1])
        standby.wait_for_spooled(field.names[min(jobs, len(field.names)) - 1])
        return max(map(peak_memory, standby.prefetch_processes())) / 1024

    yield {OURS: lambda: {f"memory, -p {jobs}, MiB": measure(jobs) for jobs in (JOBS, len(field.names))}}


def peak_memory(pid: int) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


CONTESTS: dict[str, Contest] = {
    "plain": throughput("plain"),
    "gzip": throughput("gzip"),
    "zstd": throughput("zstd"),
    "wait": waiting,
    "hit": hits,
    "cold": cold_start,
    "miss": misses,
    "recovery": recovery,
    "promotion": promotion,
    "wide": wide,
    "narrow": narrow,
    "many": many,
    "memory": memory,
}
