"""Run one Barman host and one primary for all tests.

Each test has a data directory of its own.
"""

import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost, install, install_stock_client
from tests.support.fake_server import FakeServer
from tests.support.network import Network
from tests.support.pair import Pair
from tests.support.postgres import SEGMENT_SIZE, Server, programs
from tests.support.processes import give, give_folder, processes, wait_until
from tests.support.standby import Standby, claim

RESTORE_POINT = "before_the_mistake"
ROWS_EACH = 100
SEGMENTS = 8


def pytest_configure() -> None:
    """Have SIGTERM end a run with its finalizers, so that no process is left."""
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.exit("asked to stop", 143))


class Primary(NamedTuple):
    """Hold what angus has written.

    base: a backup from before the rows. segments: the archived ones, in order.
    """

    server: Server
    base: Server
    system_identifier: int
    segments: list[str]
    rows: int
    rows_at_restore_point: int


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Return a folder that every user can read, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="walbasin-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not processes([path]), "the end of all processes", 15)
        assert processes([path]) == [], "nothing is left running"


@pytest.fixture(scope="session")
def barman(folder: Path) -> Iterator[BarmanHost]:
    host = BarmanHost(folder / "barman")
    host.start()
    yield host
    host.end()


@pytest.fixture(scope="session")
def second(folder: Path) -> Iterator[BarmanHost]:
    host = BarmanHost(folder / "barman2")
    host.start()
    yield host
    host.end()


@pytest.fixture
def pair(barman: BarmanHost, second: BarmanHost, angus: Primary, name: str) -> Pair:
    second.calm()
    second.requests()
    return Pair(barman, second, name)


@pytest.fixture
def network(barman: BarmanHost) -> Iterator[Network]:
    """Return a network to the Barman host that a test can disturb."""
    with Network(barman.port) as network:
        yield network


@pytest.fixture(autouse=True)
def calm(request: pytest.FixtureRequest) -> None:
    """End the disturbances of the Barman host that the test before has left."""
    if "barman" in request.fixturenames:
        host: BarmanHost = request.getfixturevalue("barman")
        host.calm()
        host.requests()


@pytest.fixture(scope="session")
def fetcher(folder: Path) -> Path:
    return install(folder / "lib")


@pytest.fixture(scope="session")
def stock_client(folder: Path, barman: BarmanHost) -> Path:
    return install_stock_client(folder / "stock", barman)


@pytest.fixture(scope="session")
def angus(folder: Path, barman: BarmanHost) -> Iterator[Primary]:
    """Return a primary that has archived segments to Barman, each with new rows."""
    barman.add_server("angus")
    give(barman.home / "angus" / "incoming")
    home = give_folder(folder / "angus")
    server = Server(home / "main")
    server.port = barman.primary_port
    server.create()
    server.configure(
        wal_level="replica",
        archive_mode="on",
        archive_command=barman.archive_command("angus", home),
    )
    server.start()
    try:
        yield _live(server, home, barman)
    finally:
        server.end()


def rows(server: Server) -> int:
    """Return the number of rows in the table that the tests write to."""
    return int(server.sql("SELECT count(*) FROM t"))


def _live(server: Server, home: Path, barman: BarmanHost) -> Primary:
    server.sql("CREATE TABLE t (n integer)")
    server.program(
        "pg_basebackup", "-D", home / "base", "-h", "127.0.0.1", "-p", str(server.port), "-X", "none", "-c", "fast"
    )
    for number in range(SEGMENTS):
        if number == SEGMENTS // 2:
            server.sql(f"SELECT pg_create_restore_point('{RESTORE_POINT}')")
        server.sql(f"INSERT INTO t SELECT generate_series(1, {ROWS_EACH})")
        last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    wait_until(lambda: server.sql("SELECT last_archived_wal FROM pg_stat_archiver") == last, "archiving")
    barman.run_barman("archive-wal", "angus")
    archived = sorted(path.name for path in (barman.home / "angus" / "wals").rglob("0*"))
    return Primary(
        server=server,
        base=Server(home / "base"),
        system_identifier=int(server.control("Database system identifier")),
        segments=[name for name in archived if len(name) == 24],
        rows=ROWS_EACH * SEGMENTS,
        rows_at_restore_point=ROWS_EACH * (SEGMENTS // 2),
    )


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return a word for the servers and folders of one test."""
    return re.sub(r"\W+", "_", request.node.name)[:60].strip("_")


@pytest.fixture
def workdir(folder: Path, name: str) -> Path:
    """Return a folder for one test, which postgres can write."""
    return Path(give(Path(tempfile.mkdtemp(prefix=f"{name[:20]}-", dir=folder))))


@pytest.fixture
def make_standby(workdir: Path, fetcher: Path, barman: BarmanHost, angus: Primary) -> Iterator[Callable[..., Standby]]:
    """Return a function that builds a data directory of angus's cluster by hand."""
    made = []

    def make(*signals: str, version: int = 15, segment_size: int = SEGMENT_SIZE) -> Standby:
        data = wal_builder.build_data_directory(
            workdir / "main", version, angus.system_identifier, *signals, segment_size=segment_size
        )
        made.append(Standby(workdir, give(data), fetcher, barman))
        return made[-1]

    yield make
    for standby in made:
        standby.end()


@pytest.fixture
def chris(make_standby: Callable[..., Standby]) -> Standby:
    return make_standby("standby.signal")


@pytest.fixture
def served(chris: Standby) -> Standby:
    """Return chris with a server.

    This process plays its startup process, which calls restore_command, and our parent
    its postmaster.
    """
    assert os.getppid() > 1, "process 1 cannot play the postmaster: run pytest from a shell, or through make"
    claim(chris.data, os.getppid())
    return chris


@pytest.fixture
def recovering(make_standby: Callable[..., Standby]) -> Standby:
    """Return a point-in-time recovery."""
    return make_standby("recovery.signal")


@pytest.fixture
def archive(barman: BarmanHost, name: str) -> Callable[..., str]:
    """Return a function that adds a server to Barman, with these files in its archive.

    It returns the server's name.
    """

    def make(files: dict[str, bytes]) -> str:
        barman.add_server(name)
        for file, content in files.items():
            barman.put(name, file, content)
        return name

    return make


@pytest.fixture
def wal(barman: BarmanHost, angus: Primary) -> Callable[[str], bytes]:
    """Return a function that reads one of angus's files from Barman's archive."""
    return lambda name: barman.file("angus", name).read_bytes()


@pytest.fixture
def restore_command(fetcher: Path, barman: BarmanHost, workdir: Path) -> Callable[..., str]:
    """Return a function that makes a restore_command of the fetcher."""

    def make(*options: str, host: str = "gate", server: str = "angus", **where: str) -> str:
        return barman.restore_command(fetcher, workdir / "spool", *options, host=host, server=server, **where)

    return make


@pytest.fixture
def fake_server(chris: Standby) -> Iterator[FakeServer]:
    """Run a server in chris's data directory, with processes of its own."""
    server = FakeServer(chris.data)
    yield server
    server.end()


@pytest.fixture
def copy_of_base(angus: Primary, workdir: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that makes a server on a copy of angus's base backup."""
    servers = []

    def make(name: str, signal_file: str, **settings: str) -> Server:
        server = angus.base.copy(workdir / name, archive_mode="off", **settings)
        servers.append(server)
        (server.data / signal_file).touch()
        give(server.data / signal_file)
        return server

    yield make
    for server in servers:
        server.end()


@pytest.fixture
def backed_up(workdir: Path, barman: BarmanHost, name: str) -> Iterator[Server]:
    """Return a primary with a backup at Barman, rows after it, and more after a point.

    Its Barman server has the test's name: Barman's first backup of a server removes the
    WAL from before.
    """
    server = Server(workdir / "primary")
    server.create()
    server.configure(wal_level="replica", archive_mode="on", archive_command=barman.archive_command(name, workdir))
    barman.add_server(name, port=server.port)
    with (barman.folder / "barman.d" / f"{name}.conf").open("a") as file:
        file.write(f"path_prefix = {programs()}\n")
    give(barman.home / name / "incoming")
    server.start()

    def archive() -> None:
        last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
        query = f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver"
        wait_until(lambda: server.sql(query) == "t", "archiving")
        barman.run_barman("archive-wal", name)

    try:
        server.sql("CREATE TABLE t (n integer)")
        archive()
        barman.run_barman("backup", name)
        for point in (RESTORE_POINT, "too_far"):
            server.sql(f"INSERT INTO t SELECT generate_series(1, {ROWS_EACH})")
            server.sql(f"SELECT pg_create_restore_point('{point}')")
            archive()
        yield server
    finally:
        server.end()
