"""Test what the role writes with every PostgreSQL from 10 to 18.

Segments have several sizes.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg2
import pytest
from walbasin.local import data_directory
from walbasin.wal import segment

from tests.support.barman_host import BarmanHost
from tests.support.postgres import Server, install_version
from tests.support.processes import POSTGRES, give, give_folder, wait_until
from tests.support.role_templar import cluster, render

from .conftest import RESTORE_POINT, ROWS_EACH, rows

VERSIONS = range(10, 19)
# Segment sizes in MiB. initdb takes a size from 11 on.
SIZES = (1, 16, 64)
# The default segment size in MiB.
USUAL = 16
# Run these versions every time: the oldest, recovery.conf's end, the first one that
# takes restore_command without a restart, and the newest. The rest of the matrix is for
# make test-all.
TURNING_POINTS = {10, 12, 14, 18}
# Run these (version, size) of other sizes every time.
ALWAYS = {(11, 1), (18, 64)}

RESTORE_COMMAND = "restore_command"
CONNECTION = ["primary_conninfo", "primary_slot_name"]
TIMELINE = "recovery_target_timeline"


def pending_after_reload(version: int) -> list[str]:
    """Return the settings of the role that need a restart, in 12 and later."""
    if version >= 14:
        return [TIMELINE]
    return [TIMELINE, RESTORE_COMMAND] if version == 13 else [*CONNECTION, TIMELINE, RESTORE_COMMAND]


class World(NamedTuple):
    """Hold a primary of one version, which archives to Barman's server `name`.

    base: a backup from before its rows.
    """

    version: int
    name: str
    folder: Path
    primary: Server
    base: Server
    barman: BarmanHost
    fetcher: Path

    def command(self, *options: str, server: str = "") -> str:
        """Return the value for restore_command. server: Barman's, if not our own."""
        server = server or self.name
        return self.barman.restore_command(self.fetcher, self.folder / "spool", *options, host="gate", server=server)

    def write(self, server: Server, times: int = 1) -> list[str]:
        """Write rows and archive them to Barman, each time in a new segment.

        Returns the names of the segments.
        """
        names = []
        for _ in range(times):
            server.sql(f"INSERT INTO t SELECT generate_series(1, {ROWS_EACH})")
            names.append(server.sql("SELECT pg_walfile_name(pg_switch_wal())"))
        last = "SELECT last_archived_wal FROM pg_stat_archiver"
        wait_until(lambda: server.sql(last) == names[-1], "archiving", 60)
        self.barman.run_barman("archive-wal", self.name)
        return names


def every(*sizes: int, only: Collection[int]) -> list[object]:
    """Return the parameters (version, size) for these sizes.

    only: the versions that are run every time.
    """
    pairs = [(version, size) for version in VERSIONS for size in sizes if version >= 11 or size == USUAL]
    return [parameter(*pair, is_always=pair in ALWAYS or (pair[1] == USUAL and pair[0] in only)) for pair in pairs]


def parameter(version: int, size: int, is_always: bool) -> object:
    """Return a parameter of `world`. One that is not always run is of the matrix."""
    return pytest.param((version, size), id=f"{version}-{size}MiB", marks=[] if is_always else pytest.mark.matrix)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, folder: Path, barman: BarmanHost, fetcher: Path) -> Iterator[World]:
    version, size = request.param
    name = f"v{version}_{size}"
    home = give_folder(folder / name)
    bin = install_version(version, home / "postgresql")
    primary = Server(home / "angus", bin)
    barman.add_server(name, port=primary.port)
    give(barman.home / name / "incoming")
    made = World(
        version=version,
        name=name,
        folder=home,
        primary=primary,
        base=Server(home / "base", bin),
        barman=barman,
        fetcher=fetcher,
    )
    primary.create(*([f"--wal-segsize={size}"] if version >= 11 else []))
    primary.configure(archive_mode="on", archive_command=barman.archive_command(name, home))
    primary.start()
    try:
        primary.sql("CREATE TABLE t (n integer)")
        primary.sql("SELECT pg_create_physical_replication_slot('chris')")
        back_up(made)
        made.write(primary, 2)
        primary.sql(f"SELECT pg_create_restore_point('{RESTORE_POINT}')")
        made.write(primary, 2)
        yield made
    finally:
        primary.end()
        shutil.rmtree(home)


def back_up(world: World) -> None:
    """Take a base backup through SQL: there is no pg_basebackup of that version."""
    start, stop = ("pg_backup_start('b', true)", "pg_backup_stop(false)")
    if world.version < 15:
        start, stop = ("pg_start_backup('b', true, false)", "pg_stop_backup(false, false)")
    connection = psycopg2.connect(host="127.0.0.1", port=world.primary.port, user=POSTGRES, dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {start}")
        data = world.base.data
        shutil.copytree(world.primary.data, data, ignore=shutil.ignore_patterns("postmaster.*", "0000*0*", "chris"))
        cursor.execute(f"SELECT labelfile FROM {stop}")
        (data / "backup_label").write_text(cursor.fetchone()[0])
    connection.close()
    data.chmod(0o700)
    give(data)


@pytest.fixture
def make(world: World) -> Iterator[Callable[[str], Server]]:
    """Return a function that makes a server on a copy of the base backup."""
    servers = []

    def copy(name: str) -> Server:
        servers.append(world.base.copy(world.folder / name))
        return servers[-1]

    yield copy
    for server in servers:
        server.end()
        shutil.rmtree(server.data)


def deploy(world: World, server: Server, command: str, **variables: str) -> None:
    """Write what the role writes on a standby."""
    files = {"recovery_conf": "standby_mode = on\n"} if world.version < 12 else {}
    known = cluster(str(world.version), str(server.data), **files) | {"__standby_restore_command": command, **variables}
    if world.version < 12:
        (server.data / "recovery.conf").write_text(render("recovery.conf.j2", **known))
        give(server.data / "recovery.conf")
        return
    (server.data / "walbasin.conf").write_text(render("walbasin.conf.j2", **known))
    if not (server.data / "standby.signal").exists():
        with (server.data / "postgresql.conf").open("a") as file:
            file.write("include_if_exists = 'walbasin.conf'\n")
    for each in ("walbasin.conf", "standby.signal"):
        (server.data / each).touch()
        give(server.data / each)


def is_streaming(server: Server) -> bool:
    return server.sql("SELECT status FROM pg_stat_wal_receiver") == "streaming"


def assert_positions(server: Server) -> None:
    """Compare what we read of pg_control with what the server says of it."""
    found = data_directory.read(str(server.data))
    assert found is not None
    said_size = int(server.sql("SELECT bytes_per_wal_segment FROM pg_control_init()"))
    control = (server.data / "global" / "pg_control").read_bytes()
    assert found.known_segment_size == data_directory.parse_segment_size(control) == said_size
    for _ in range(5):  # a restartpoint may come between the two
        lines = [
            server.sql("SELECT timeline_id, redo_lsn - '0/0' FROM pg_control_checkpoint()"),
            server.sql("SELECT min_recovery_end_timeline, min_recovery_end_lsn - '0/0' FROM pg_control_recovery()"),
        ]
        said = tuple(tuple(map(int, line.split("|"))) for line in lines)
        if said == data_directory.read_positions(found):
            return
    assert said == data_directory.read_positions(found)


@pytest.mark.parametrize("world", every(*SIZES, only=TURNING_POINTS), indirect=True)
def test_standby_and_promotion_of_each_version(world: World, make: Callable[[str], Server]) -> None:
    chris, dora = make("chris"), make("dora")
    conninfo = f"host=127.0.0.1 port={world.primary.port} user={POSTGRES}"
    deploy(world, chris, world.command("-p", "4"), standby_primary_conninfo=conninfo, standby_primary_slot_name="chris")
    chris.start()
    wait_until(lambda: is_streaming(chris), "streaming", 60)

    # Streaming stops, and only the archive is left.
    world.primary.stop()
    world.primary.configure(max_wal_senders="0", max_replication_slots="0")
    slots = world.primary.data / "pg_replslot"
    shutil.rmtree(slots / "chris")
    world.primary.start()
    names = world.write(world.primary, 3)
    wait_until(lambda: rows(chris) == rows(world.primary), "the last archived row", 60)
    assert not is_streaming(chris)
    for name in names:
        assert f'restored log file "{name}" from archive' in chris.log()

    assert_positions(chris)
    # A new timeline goes to the archive as well.
    before = rows(chris)
    chris.promote()
    assert chris.sql("SELECT pg_is_in_recovery()") == "f"
    (switched,) = world.write(chris)
    assert switched.startswith("00000002")

    deploy(world, dora, world.command("-p", "4"))
    dora.start()
    wait_until(lambda: rows(dora) == before + ROWS_EACH, "the rows of the new timeline", 60)
    assert 'restored log file "00000002.history" from archive' in dora.log()
    assert f'restored log file "{switched}" from archive' in dora.log()


@pytest.mark.parametrize("world", every(USUAL, only={10, 18}), indirect=True)
def test_abandoned_timeline_of_each_version(world: World, make: Callable[[str], Server]) -> None:
    """Start beside a timeline that another copy has begun before our position."""
    barman, archive = world.barman, f"{world.name}_abandoned"
    barman.add_server(archive)
    segments = sorted((barman.home / world.name / "wals").rglob("00000001" + "[0-9A-F]" * 16))
    for path in segments:
        barman.put(archive, path.name, path.read_bytes())
    chris, dora = make("chris"), make("dora")
    everything = rows(world.primary)  # another test may have written more
    for server in (chris, dora):
        deploy(world, server, world.command("-p", "4", server=archive))
        server.start()
        wait_until(lambda server=server: rows(server) == everything, "all rows", 60)  # type: ignore[misc]
        server.sql("CHECKPOINT")
        server.stop()
    size = USUAL << 20
    before = segment.format_lsn((segment.segment_number(segments[-1].name, size) - 1) * size)
    barman.put(archive, "00000002.history", f"1\t{before}\tno recovery target specified\n".encode())

    # Without the guard it does not start, and keeps the history in pg_wal.
    deploy(world, chris, world.command("-p", "4", "--any-timeline", server=archive))
    start_in_vain(chris, "requested timeline 2")
    assert (chris.data / "pg_wal" / "00000002.history").exists()
    deploy(world, chris, world.command("-p", "4", server=archive))
    chris.start()
    wait_until(lambda: rows(chris) == everything, "all rows", 60)
    assert f"timeline 2, which left this server's history at {before}" in chris.log()
    # It runs, sees the timeline, and can start again.
    wait_until(lambda: "new timeline 2" in chris.log(), "PostgreSQL's word on timeline 2", 60)
    chris.stop()
    chris.start()

    # A promotion sees that timeline 2 is taken.
    chris.promote()
    chris.sql(f"INSERT INTO t SELECT generate_series(1, {ROWS_EACH})")
    switched = chris.sql("SELECT pg_walfile_name(pg_switch_wal())")
    assert switched.startswith("00000003")
    for name in ("00000003.history", switched):
        barman.put(archive, name, (chris.data / "pg_wal" / name).read_bytes())

    # Timeline 3 is followed, although 2 is in front of it.
    dora.start()
    wait_until(lambda: rows(dora) == everything + ROWS_EACH, "the rows of timeline 3", 60)


def start_in_vain(server: Server, words: str) -> None:
    """Start a server that has to end with these words.

    Try it again where Barman was too slow: the server was not told of what ends it.
    """
    for _ in range(3):
        with contextlib.suppress(AssertionError):  # PostgreSQL 18's pg_ctl says that it has started
            server.start()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: words in server.log(), words, 10)
            break
        server.stop()
    wait_until(lambda: "database system is shut down" in server.log().rpartition(words)[2], "its end", 60)


@pytest.mark.parametrize("world", every(*SIZES, only={10, 12, 18}), indirect=True)
def test_restore_point_of_each_version(world: World, make: Callable[[str], Server]) -> None:
    server = make("pitr")
    settings = {
        RESTORE_COMMAND: world.command("-p", "4"),
        "recovery_target_name": RESTORE_POINT,
        "recovery_target_action": "promote",
    }
    if world.version < 12:
        text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        (server.data / "recovery.conf").write_text(text)
        give(server.data / "recovery.conf")
    else:
        server.configure(**settings)
        (server.data / "recovery.signal").touch()
        give(server.data / "recovery.signal")
    server.start()
    wait_until(lambda: server.sql("SELECT pg_is_in_recovery()") == "f", "the end of recovery", 60)
    assert f'recovery stopping at restore point "{RESTORE_POINT}"' in server.log()
    assert rows(server) == 2 * ROWS_EACH


@pytest.mark.parametrize("world", every(USUAL, only={12, 14, 18}), indirect=True)
def test_settings_after_reload(world: World, make: Callable[[str], Server]) -> None:
    """Compare the settings that a reload leaves pending with our table.

    The role asks the server the same question.
    """
    chris = make("chris")
    old, new = world.command(), world.command("-s", "1")
    deploy(world, chris, old, standby_primary_conninfo="host=127.0.0.1 port=1", standby_primary_slot_name="one")
    chris.start()
    loaded = chris.sql("SELECT pg_conf_load_time()")
    deploy(
        world,
        chris,
        new,
        standby_primary_conninfo="host=127.0.0.1 port=2",
        standby_primary_slot_name="two",
        standby_recovery_target_timeline="current" if world.version >= 12 else "1",
    )
    chris.program("pg_ctl", "-D", chris.data, "reload")
    if world.version < 12:
        assert chris.sql("SELECT count(*) FROM pg_settings WHERE name = 'restore_command'") == "0"
        return
    written = ", ".join(f"'{name}'" for name in [*CONNECTION, RESTORE_COMMAND, TIMELINE])
    wait_until(lambda: chris.sql("SELECT pg_conf_load_time()") > loaded, "the reload")
    query = f"SELECT json_agg(name ORDER BY name) FROM pg_settings WHERE pending_restart AND name IN ({written})"
    assert json.loads(chris.sql(query)) == pending_after_reload(world.version)
    chris.stop()
    chris.start()
    assert chris.sql("SHOW restore_command") == new
