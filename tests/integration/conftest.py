"""One Barman host and one primary for all tests, made once; a data directory of its own for each test."""

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
from tests.support.postgres import Server
from tests.support.processes import give, give_folder, processes, wait_until
from tests.support.standby import Standby

RESTORE_POINT = "before_the_mistake"
ROWS_EACH = 100
SEGMENTS = 8


def pytest_configure() -> None:
    """A run that is told to stop ends what it started, as one that ends by itself does."""
    signal.signal(signal.SIGTERM, lambda number, frame: pytest.exit("asked to stop", 143))


class Primary(NamedTuple):
    """What angus has written: a base backup from before, and the names of its archived segments in order."""

    server: Server
    base: Server
    system_identifier: int
    segments: list[str]
    rows: int
    rows_at_restore_point: int


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Readable by everybody, which pytest's own folders are not."""
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


@pytest.fixture
def network(barman: BarmanHost) -> Iterator[Network]:
    """A way to the Barman host that can be harmed."""
    with Network(barman.port) as network:
        yield network


@pytest.fixture(autouse=True)
def calm(request: pytest.FixtureRequest) -> None:
    """No test inherits the disturbances of the one before."""
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
    """A primary that has archived a few segments to Barman, each with rows of its own."""
    barman.add_server("angus")
    give(barman.home / "angus" / "incoming")
    own = give_folder(folder / "angus")
    server = Server(own / "main")
    server.port = barman.primary_port
    server.create()
    server.configure(
        wal_level="replica",
        archive_mode="on",
        archive_command=barman.archive_command("angus", own),
    )
    server.start()
    try:
        yield _live(server, own, barman)
    finally:
        server.end()


def rows(server: Server) -> int:
    """How many there are in the table that the tests write to."""
    return int(server.sql("SELECT count(*) FROM t"))


def _live(server: Server, own: Path, barman: BarmanHost) -> Primary:
    server.sql("CREATE TABLE t (n integer)")
    server.program(
        "pg_basebackup", "-D", own / "base", "-h", "127.0.0.1", "-p", str(server.port), "-X", "none", "-c", "fast"
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
        server,
        Server(own / "base"),
        int(server.control("Database system identifier")),
        [name for name in archived if len(name) == 24],
        ROWS_EACH * SEGMENTS,
        ROWS_EACH * (SEGMENTS // 2),
    )


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A word of the test's own, for its servers and folders."""
    return re.sub(r"\W+", "_", request.node.name)[:60].strip("_")


@pytest.fixture
def place(folder: Path, name: str) -> Path:
    """A folder for one test, which postgres can write."""
    return Path(give(Path(tempfile.mkdtemp(prefix=f"{name[:20]}-", dir=folder))))


@pytest.fixture
def make_standby(place: Path, fetcher: Path, barman: BarmanHost, angus: Primary) -> Iterator[Callable[..., Standby]]:
    """Data directories made by hand, of angus's cluster."""
    made = []

    def make(*signals: str, version: int = 15) -> Standby:
        data = wal_builder.build_data_directory(place / "main", version, angus.system_identifier, *signals)
        made.append(Standby(place, give(data), fetcher, barman))
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
    file = chris.data / "postmaster.pid"
    file.write_text(f"{os.getppid()}\n{chris.data}\n1700000000\n5432\n")
    give(file)
    return chris


@pytest.fixture
def recovering(make_standby: Callable[..., Standby]) -> Standby:
    """A point-in-time recovery."""
    return make_standby("recovery.signal")


@pytest.fixture
def archive(barman: BarmanHost, name: str) -> Callable[..., str]:
    """Makes a server in Barman whose archive holds just these files. Returns its name."""

    def make(files: dict[str, bytes]) -> str:
        barman.add_server(name)
        for file, content in files.items():
            barman.put(name, file, content)
        return name

    return make


@pytest.fixture
def wal(barman: BarmanHost, angus: Primary) -> Callable[[str], bytes]:
    """What angus wrote, as Barman holds it."""
    return lambda name: barman.file("angus", name).read_bytes()


@pytest.fixture
def restore_command(fetcher: Path, barman: BarmanHost, place: Path) -> Callable[..., str]:
    """Makes a server's, for the options and what BarmanHost's wants to know."""

    def make(*options: str, host: str = "gate", server: str = "angus", **where: str) -> str:
        return barman.restore_command(fetcher, place / "spool", *options, host=host, server=server, **where)

    return make


@pytest.fixture
def fake_server(chris: Standby) -> Iterator[FakeServer]:
    """Run a server in chris's data directory, with processes of its own."""
    server = FakeServer(chris.data)
    yield server
    server.end()


@pytest.fixture
def copy_of_base(angus: Primary, place: Path) -> Iterator[Callable[..., Server]]:
    """Servers on copies of angus's base backup."""
    servers = []

    def make(name: str, signal_file: str, **settings: str) -> Server:
        server = angus.base.copy(place / name, archive_mode="off", **settings)
        servers.append(server)
        (server.data / signal_file).touch()
        give(server.data / signal_file)
        return server

    yield make
    for server in servers:
        server.end()
