"""Measure real servers: a recovery, a promotion, Barman's restore."""

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2

from tests.support.network import Harm, Network, black_hole
from tests.support.postgres import SEGMENT_SIZE, Server
from tests.support.processes import POSTGRES, give, give_folder, wait_until
from tests.support.rebuild import Rebuild

from .. import rows
from ..contest import CP, LIMIT, OURS, PGBACKREST, STOCK, Entrants
from ..field import JOBS, Field, Standby

# Longer than a round: what PostgreSQL does by itself in between is not to be measured.
RETRY_INTERVAL = "60s"
# Seconds in which a server has ended to change its data directory because of its start,
# and has been told that the archive has no more.
STARTED_AND_TOLD = 6
# In SQL: WAL comes from the primary.
STREAMS = "EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"


def wait_for_replay(server: Server, name: str, and_then: str = "true", step: float = 0.01) -> None:
    """Wait until all of this segment has been replayed.

    One connection for all looks: a new one for each would take CPU from recovery.
    and_then: what else must hold, in SQL. step: seconds between two looks.
    """
    end = (int(name[8:16], 16) << 32) + (int(name[16:], 16) + 1) * SEGMENT_SIZE
    query = f"SELECT pg_last_wal_replay_lsn() - '0/0' >= {end} AND {and_then}"
    with connected(server) as cursor:
        wait_until(lambda: holds(cursor, query), f"replay of {name}", 120, step)


def holds(cursor: Any, query: str) -> bool:
    """Return the only value that a query brings."""
    cursor.execute(query)
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
def running(
    field: Field, template: Server, restore_command: Callable[[Path], str], **settings: str
) -> Iterator[Server]:
    """Give a real standby on a copy of `template`.

    restore_command: made for its data directory. settings: more of PostgreSQL's.
    """
    data = template.data.parent / "standby"
    subprocess.run(["rm", "-rf", data], check=True)
    server = template.copy(data, archive_mode="off", restore_command=restore_command(data))
    server.configure(wal_retrieve_retry_interval=RETRY_INTERVAL, **settings)
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
                wait_for_replay(server, field.names[-1])
                return {rows.RECOVERY: time.monotonic() - started}

        return run

    yield {
        OURS: recover(lambda data: standby.ours()),
        STOCK: recover(lambda data: standby.stock()),
        PGBACKREST: recover(lambda data: standby.pgbackrest(data=data)),
        CP: recover(lambda data: standby.cp()),
    }


@contextlib.contextmanager
def streaming(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure a standby from the end of its copy until it streams from its primary.

    A backup is older than what other contests fetch: it has four times as much to
    replay.
    """
    conninfo = f"host=127.0.0.1 port={field.primary.port} user={POSTGRES}"

    def follow(command: str) -> dict[str, float]:
        standby.settle()
        with running(field, field.base, lambda data: command, primary_conninfo=conninfo) as server:
            started = time.monotonic()
            server.start()
            wait_for_replay(server, last, STREAMS)
            return {rows.STREAMING: time.monotonic() - started}

    with field.running_primary(3 * len(field.names)) as last:
        yield {OURS: lambda: follow(standby.ours()), CP: lambda: follow(standby.cp())}


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
        wait_for_replay(server, field.names[-1], step=0.1)
        server.stop()
        caught_up = server.copy(server.data.parent / "caught-up")

    def promote(
        row: str, command: str, base: Server = caught_up, disturb: Callable[[], object] = lambda: None
    ) -> dict[str, float]:
        standby.settle()
        with running(field, base, lambda data: command) as server:
            server.start()
            time.sleep(STARTED_AND_TOLD)
            disturb()
            with connected(server) as cursor:
                started = time.monotonic()
                cursor.execute("SELECT pg_promote(wait => false)")
                wait_until(lambda: holds(cursor, "SELECT NOT pg_is_in_recovery()"), row, 60, step=0.005)
                return {row: time.monotonic() - started}

    def ours() -> dict[str, float]:
        warm = promote(rows.PROMOTION, standby.ours())
        return warm | promote(rows.PROMOTION_COLD, standby.ours(), disturb=standby.end_prefetch_process)

    def black_holed() -> dict[str, float]:
        with black_hole() as port:
            standby_there = field.standby(field.barman.reach_through(port))
            return promote(rows.PROMOTION_DARK, standby_there.ours(), disturb=standby_there.end_prefetch_process)

    def disturbed() -> dict[str, float]:
        found: dict[str, float] = {}

        # A connection that is new would bring as much again, and so all, bit by bit.
        def freeze(network: Network) -> None:
            network.harm = Harm("silence", 0)

        for row, base, harm, disturb in (
            (rows.PROMOTION_REFUSED, caught_up, None, Network.partition),
            (rows.PROMOTION_FROZEN, caught_up, None, freeze),
            (rows.PROMOTION_CUT, field.base, Harm("silence", 5 * SEGMENT_SIZE // 2), freeze),
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
