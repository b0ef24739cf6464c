"""Measure, each contest for those who take part in it.

A contest gives a function for each of them, which is called once a round, and returns
what it has measured: row -> value. `limit` is what cannot be surpassed, or what ours is
compared with.
"""

import bz2
import contextlib
import functools
import gzip
import statistics
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2

from tests.support.barman_host import FILES
from tests.support.fake_server import Calls
from tests.support.network import Harm, Network, black_hole
from tests.support.postgres import SEGMENT_SIZE, Server
from tests.support.processes import ME, POSTGRES, PYTHON, give, give_folder, wait_until
from tests.support.rebuild import Rebuild

from . import rows
from .field import ABSENT, JOBS, Field, Standby
from .rows import STANDBYS

OURS, NO_GATE, STOCK, PGBACKREST = "ours", "ours, no gate", "stock", "pgBackRest"
CP, MV, LIMIT = "cp", "mv", "limit"

Entrants = dict[str, Callable[[], dict[str, float]]]
Contest = Callable[[Field, Standby], contextlib.AbstractContextManager[Entrants]]

# Seconds that PostgreSQL takes to replay a segment.
REPLAY = 0.1
# Seconds each way of a wide network.
WIDE = 0.025
# Seconds each way of a narrow network, and its bytes a second.
NARROW, NARROW_RATE = 0.01, 100_000_000 // 8
# Of each link in rows.LINKS that is relayed: seconds each way, and bytes a second.
LINKS = dict(zip(rows.LINKS, ((0.01, 100_000_000 // 8), (0.01, 20_000_000 // 8), (0.0, 1_000_000_000 // 8))))
# Segments that are fetched plain over a slow link, where each takes the same time.
SLOW_SEGMENTS = 4
# Bytes a second, and segments that take 20 seconds so.
LIMIT_RATE, LIMITED_SEGMENTS = 10_000_000, 12
# Forms of compression with several streams in a file, and bytes in each: as bgzip and
# pbzip2 write them.
STREAMS = {"gzip": 64 << 10, "bzip2": 900_000}
# Prints the seconds of CPU that the fetcher takes to decompress a file, the least of
# five.
DECOMPRESS = """
import io, sys, time
sys.path.insert(0, sys.argv[1])
from walbasin.wal.compression import DecompressingWriter
with open(sys.argv[2], "rb") as file:
    stored = file.read()
seconds = []
for _ in range(5):
    began = time.process_time()
    writer = DecompressingWriter(io.BytesIO(), 1 << 30)
    writer.write(stored)
    writer.finish()
    seconds.append(time.process_time() - began)
print(min(seconds))
"""
# Calls for a segment that is not there.
MISSES = 8
# Segments that are fetched while replay takes its time.
REPLAYED = 16
# Segments for Barman's own client: its rate is the same for each batch of JOBS, so it
# need not fetch them all.
STEADY = 2 * JOBS
# Longer than a round: what PostgreSQL does by itself in between is not to be measured.
RETRY_INTERVAL = "60s"


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


# Real servers.


def replayed(server: Server, name: str) -> bool:
    """Return whether all of this segment has been replayed."""
    end = (int(name[8:16], 16) << 32) + (int(name[16:], 16) + 1) * SEGMENT_SIZE
    with connected(server) as cursor:
        cursor.execute("SELECT pg_last_wal_replay_lsn() - '0/0' >= %s", (end,))
        return bool(cursor.fetchone()[0])


@contextlib.contextmanager
def connected(server: Server) -> Iterator[Any]:
    """Give a cursor of a connection to this server."""
    connection = psycopg2.connect(host="127.0.0.1", port=server.port, user=POSTGRES, dbname="postgres")
    connection.autocommit = True
    try:
        yield connection.cursor()
    finally:
        connection.close()


@contextlib.contextmanager
def running(field: Field, template: Server, restore_command: Callable[[Path], str]) -> Iterator[Server]:
    """Give a real standby on a copy of `template`.

    restore_command: made for its data directory.
    """
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
    """Measure a real standby, from its start until it has replayed everything."""

    def recover(command: Callable[[Path], str]) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            standby.settle()
            with running(field, field.base, command) as server:
                started = time.monotonic()
                server.start()
                wait_until(lambda: replayed(server, field.names[-1]), "recovery", 120, step=0.01)
                return {rows.RECOVERY: time.monotonic() - started}

        return run

    yield {
        OURS: recover(lambda data: standby.ours()),
        STOCK: recover(lambda data: standby.stock()),
        PGBACKREST: recover(lambda data: standby.pgbackrest(data=data)),
        CP: recover(lambda data: standby.cp()),
    }


@contextlib.contextmanager
def restore(field: Field, _: Standby) -> Iterator[Entrants]:
    """Measure Barman's restore over the key of a rebuild. The limit: over any key."""
    server = "angus_restore"
    field.back_up(server)

    def copy(name: str, may_all: bool) -> Callable[[], dict[str, float]]:
        rebuild = Rebuild(field.barman, give_folder(field.folder / name), server, may_all)

        def run() -> dict[str, float]:
            subprocess.run(["rm", "-rf", rebuild.container], check=True)
            started = time.monotonic()
            rebuild.restore()
            seconds = time.monotonic() - started
            size = sum(path.stat().st_size for path in rebuild.new.rglob("*") if path.is_file())
            return {rows.COPY: size / 1e6 / seconds}

        return run

    yield {OURS: copy("rebuild", may_all=False), LIMIT: copy("by-hand", may_all=True)}


@contextlib.contextmanager
def promotion(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure from the request on until a standby is no longer in recovery.

    It has replayed all there is.
    """
    with running(field, field.base, lambda data: standby.cp()) as server:
        server.start()
        wait_until(lambda: replayed(server, field.names[-1]), "recovery", 120, step=0.1)
        server.stop()
        caught_up = server.copy(server.data.parent / "caught-up")

    def promote(
        row: str, command: str, base: Server = caught_up, disturb: Callable[[], object] = lambda: None
    ) -> dict[str, float]:
        standby.settle()
        with running(field, base, lambda data: command) as server:
            server.start()
            time.sleep(2)  # by now it has been told that there is no more
            disturb()
            with connected(server) as cursor:
                started = time.monotonic()
                cursor.execute("SELECT pg_promote(wait => false)")
                wait_until(lambda: is_primary(cursor), "promotion", 60, step=0.005)
                return {row: time.monotonic() - started}

    def is_primary(cursor: Any) -> bool:
        cursor.execute("SELECT pg_is_in_recovery()")
        return not cursor.fetchone()[0]

    def ours() -> dict[str, float]:
        warm = promote(rows.PROMOTION, standby.ours())
        return warm | promote(rows.PROMOTION_COLD, standby.ours(), disturb=standby.end_prefetch_process)

    def black_holed() -> dict[str, float]:
        with black_hole() as port:
            standby_there = field.standby(field.barman.reach_through(port))
            return promote(rows.PROMOTION_DARK, standby_there.ours(), disturb=standby_there.end_prefetch_process)

    def disturbed() -> dict[str, float]:
        found: dict[str, float] = {}
        for row, base, harm, disturb in (
            (rows.PROMOTION_REFUSED, caught_up, None, Network.partition),
            (rows.PROMOTION_FROZEN, caught_up, None, lambda network: setattr(network, "harm", Harm("silence", 0))),
            (rows.PROMOTION_CUT, field.base, Harm("silence", 5 * SEGMENT_SIZE // 2), lambda network: None),
        ):
            with Network(field.barman.port) as network:
                network.harm = harm
                standby_there = field.standby(field.barman.reach_through(network.port))
                # The harm counts plain bytes.
                command = standby_there.ours(options=f"-p {JOBS} --compress none")
                found |= promote(row, command, base, functools.partial(disturb, network))
                standby_there.settle()
        return found

    yield {
        LIMIT: lambda: promote(rows.PROMOTION, "/bin/false"),
        OURS: lambda: ours() | black_holed() | disturbed(),
    }


# Networks.


@contextlib.contextmanager
def wide(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure behind a round trip of 50 ms. The limit: the same relay without it."""
    with field.far(WIDE) as far, field.far(0) as near:

        def fetch(
            there: Standby, command: Callable[[], str], count: int = len(field.names)
        ) -> Callable[[], dict[str, float]]:
            def run() -> dict[str, float]:
                # What it takes to find out how many connections help is over by then.
                seconds = there.trial(command(), field.names[:count]).seconds[count // 3 :]
                return {rows.WIDE: len(seconds) / sum(seconds)}

            return run

        yield {
            OURS: fetch(far, far.ours),
            STOCK: fetch(far, far.stock, STEADY),
            PGBACKREST: fetch(far, far.pgbackrest),
            LIMIT: fetch(near, near.ours),
        }


@contextlib.contextmanager
def narrow(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure behind 100 Mbit/s and a round trip of 20 ms.

    The limit: the compressed bytes, and the link with nothing else.
    """
    names = field.names
    stored = [field.barman.file("angus_gzip", name).stat().st_size for name in names]
    squeezed = [len(zlib.compress((field.local / name).read_bytes(), 1)) for name in names]
    with field.far(NARROW, NARROW_RATE) as far:

        def fetch(row: str, command: str, count: int = len(names)) -> dict[str, float]:
            return {row: count / sum(far.trial(command, names[:count]).seconds)}

        yield {
            OURS: lambda: (
                fetch(rows.NARROW, far.ours(kind="gzip")) | fetch(rows.NARROW_Z, far.ours(options=f"-p {JOBS} -z"))
            ),
            STOCK: lambda: fetch(rows.NARROW, far.stock("gzip"), STEADY),
            PGBACKREST: lambda: fetch(rows.NARROW, far.pgbackrest("gzip")),
            LIMIT: lambda: {
                rows.NARROW: NARROW_RATE * len(names) / sum(stored),
                rows.NARROW_Z: NARROW_RATE * len(names) / sum(squeezed),
            },
        }


def by_compression(link: str) -> Contest:
    """Measure a plain archive behind a link, with each way to compress.

    The limit: the link with nothing but plain WAL.
    """

    @contextlib.contextmanager
    def contest(field: Field, standby: Standby) -> Iterator[Entrants]:
        delay, rate = LINKS.get(link, (0.0, 0))
        is_slow = link in rows.LINKS[:2]
        options = {rows.NO_OPTION: "", rows.NO_COMPRESSION: rows.NO_COMPRESSION}
        if is_slow:
            options |= {rows.BY_GZIP: rows.BY_GZIP, rows.BY_ZSTD: rows.BY_ZSTD}
        with field.far(delay, rate) if rate else contextlib.nullcontext(standby) as there:

            def fetch(words: str) -> float:
                is_long = is_slow and words == rows.NO_COMPRESSION
                names = field.names[:SLOW_SEGMENTS] if is_long else field.names
                return len(names) / sum(there.trial(there.ours(options=f"-p {JOBS} {words}"), names).seconds)

            entrants: Entrants = {
                OURS: lambda: {rows.LINK.format(link, way): fetch(words) for way, words in options.items()}
            }
            if is_slow:
                entrants[LIMIT] = lambda: {rows.LINK.format(link, rows.NO_COMPRESSION): rate / SEGMENT_SIZE}
            yield entrants

    return contest


@contextlib.contextmanager
def rate_limited(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure what comes in 20 seconds with a limit, when replay costs nothing."""

    def fetch() -> dict[str, float]:
        command = standby.ours(options=f"-p {JOBS} --compress none --rate-limit {LIMIT_RATE // 10**6}M")
        seconds = standby.trial(command, field.names[:LIMITED_SEGMENTS]).seconds
        return {
            rows.LIMITED: len(seconds) * SEGMENT_SIZE / sum(seconds) / 1e6,
            rows.LIMITED_WAIT: max(seconds[1:]) * LIMIT_RATE / SEGMENT_SIZE,
        }

    yield {OURS: fetch}


@contextlib.contextmanager
def custom(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure an archive that only Barman can undo."""
    field.add_custom_archive(STEADY)

    def fetch(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        names = field.names[:STEADY]
        return lambda: {rows.CUSTOM: len(names) / sum(standby.trial(command(), names).seconds)}

    yield {OURS: fetch(lambda: standby.ours(kind="custom")), STOCK: fetch(lambda: standby.stock("custom"))}


@contextlib.contextmanager
def streams(field: Field, _: Standby) -> Iterator[Entrants]:
    """Measure decompression. The limit: of the same in one stream."""
    content = (field.local / field.names[0]).read_bytes()

    def decompress(form: str, size: int) -> float:
        store: Callable[[bytes], bytes] = gzip.compress if form == "gzip" else bz2.compress
        file = field.folder / f"streams.{form}"
        file.write_bytes(b"".join(store(content[start : start + size]) for start in range(0, len(content), size)))
        command = [PYTHON, "-c", DECOMPRESS, str(FILES), str(file)]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        return len(content) / 1e6 / float(ran.stdout)

    yield {
        OURS: lambda: {rows.STREAMS.format(form): decompress(form, size) for form, size in STREAMS.items()},
        LIMIT: lambda: {rows.STREAMS.format(form): decompress(form, len(content)) for form in STREAMS},
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


CONTESTS: dict[str, Contest] = {
    "plain": throughput("plain"),
    "gzip": throughput("gzip"),
    "zstd": throughput("zstd"),
    "wait": waiting,
    "hit": hits,
    "cold": cold_start,
    "crowd": crowd,
    "miss": misses,
    "hosts": two_hosts,
    "recovery": recovery,
    "restore": restore,
    "promotion": promotion,
    "wide": wide,
    "narrow": narrow,
    **{name: by_compression(link) for name, link in zip(("100M", "20M", "1G", "loopback"), rows.LINKS)},
    "limit": rate_limited,
    "custom": custom,
    "streams": streams,
    "many": many,
    "memory": memory,
}
