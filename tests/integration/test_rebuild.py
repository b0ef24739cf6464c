"""Test the way back: Barman restores into a standby over a key that can do no more."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.disks import SmallDisk
from tests.support.postgres import Server
from tests.support.processes import give, wait_until
from tests.support.rebuild import Rebuild
from tests.support.wal_builder import MIB

from .conftest import ROWS_EACH, rows

# A backup and two copies.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def rebuild(barman: BarmanHost, workdir: Path, name: str) -> Rebuild:
    return Rebuild(barman, workdir, name, tablespaces=[workdir / "faster"])


def test_standby_from_backup(
    backed_up: Server, rebuild: Rebuild, workdir: Path, name: str, restore_command: Callable[..., str]
) -> None:
    """Recover all rows from the archive, with nothing of Barman's left behind."""
    found = rebuild.find_backup()
    assert found["primary"]["timeline"] == 1
    assert found["wal"]["missing"] == ""
    assert found["verb"] == "restore"
    rebuild.step("keep")
    rebuild.restore()
    note = rebuild.step("place", "20261129T001817")
    assert "hba_file" not in note
    left = {path.name for path in rebuild.data.iterdir()}
    assert not {each for each in left if each.endswith(".origin") or each.startswith((".barman", "backup_manifest"))}
    assert "restore_command" not in (rebuild.data / "postgresql.auto.conf").read_text()
    assert "archive_command = false" not in (rebuild.data / "postgresql.conf").read_text()
    assert "standby.signal" in left
    # What the next run finds, should this one be killed here.
    assert rebuild.find_data(rebuild.data)["placed"] == "20261129T001817"
    (rebuild.data / "backup_label").rename(rebuild.data / "kept")
    assert rebuild.find_data(rebuild.data)["placed"] == "", "it was started"
    (rebuild.data / "kept").rename(rebuild.data / "backup_label")
    rebuild.step("tidy")
    assert rebuild.find_data(rebuild.data)["placed"] == ""
    assert not rebuild.container.exists()

    chris = Server(rebuild.data)
    chris.configure(restore_command=restore_command("-p", "4", server=name), archive_mode="off", port=str(chris.port))
    chris.start()
    try:
        wait_until(lambda: rows(chris) == rows(backed_up), "all rows", 60)
        assert rows(chris) == 2 * ROWS_EACH
        assert chris.sql("SELECT pg_is_in_recovery()") == "t"
        assert "restored log file" in chris.log()
    finally:
        chris.end()


@pytest.mark.usefixtures("backed_up")
def test_delta_after_interruption(rebuild: Rebuild) -> None:
    """Go on with what an interrupted copy has left. The old directory stays."""
    rebuild.data.mkdir()
    (rebuild.data / "PG_VERSION").write_text("15\n")
    (rebuild.data / "postgresql.conf").write_text("port = 1\n")
    give(rebuild.data)
    rebuild.step("keep")
    rebuild.restore()
    (rebuild.new / "base" / "1" / "1255").write_bytes(b"half")
    rebuild.step("clear", "delta")
    assert (rebuild.data / "PG_VERSION").exists()
    rebuild.restore("--delta-restore")
    assert (rebuild.new / "base" / "1" / "1255").stat().st_size > 4
    note = rebuild.step("place", "20261129T001817")
    assert "the old data directory is kept in" in note
    assert (rebuild.data / "postgresql.conf").read_text() == "port = 1\n"
    assert len(list(rebuild.container.glob("old-*/PG_VERSION"))) == 1


def test_position_of_crashed_primary(rebuild: Rebuild, backed_up: Server) -> None:
    """Find what a primary wrote after its last checkpoint: it may be nowhere else."""
    backed_up.sql("CHECKPOINT")
    backed_up.sql("INSERT INTO t SELECT generate_series(1, 5000)")
    written = int(backed_up.sql("SELECT pg_current_wal_flush_lsn() - '0/0'"))
    backed_up.stop("immediate")
    found = rebuild.find_data(backed_up.data)
    assert found["timeline"] == 1
    assert written - 64 < found["lsn"] <= written
    # A standby's last page may have old bytes behind what was received.
    (backed_up.data / "standby.signal").touch()
    found = rebuild.find_data(backed_up.data)
    assert written - 8192 <= found["lsn"] <= written


@pytest.fixture
def tablespace(backed_up: Server, rebuild: Rebuild, workdir: Path) -> str:
    """Make a tablespace with a table of 11 MB, take a backup, and return its name."""
    (workdir / "fast").mkdir()
    give(workdir / "fast")
    backed_up.sql(f"CREATE TABLESPACE fast LOCATION '{workdir}/fast'")
    backed_up.sql("CREATE TABLE orders TABLESPACE fast AS SELECT repeat('x', 500) FROM generate_series(1, 20000)")
    # The backup's own takes minutes for what was written here.
    backed_up.sql("CHECKPOINT")
    rebuild.barman.run_barman("backup", rebuild.server)
    return "fast"


def test_room_of_each_filesystem(tablespace: str, rebuild: Rebuild, workdir: Path) -> None:
    """Ask for each tablespace's room where that is to lie, and nowhere else."""
    backup = rebuild.find_backup()["backup"]
    size = backup["tablespace_sizes"][tablespace]
    assert 10 * MIB < size < 20 * MIB
    assert 20 * MIB < backup["size"] - size < 100 * MIB

    def rooms(disk: SmallDisk) -> list[tuple[str, bool]]:
        copied = {str(rebuild.data): backup["size"] - size, str(disk.folder / "fast"): size}
        found = rebuild.find_data(rebuild.data, copied=copied, version=15)["rooms"]
        return [(each["folder"], each["is_enough"]) for each in found]

    with SmallDisk(workdir / "small", 8 * MIB) as small, SmallDisk(workdir / "large", 32 * MIB) as large:
        assert rooms(small) == [(str(rebuild.data), True), (str(small.folder / "fast"), False)]
        assert rooms(large) == [(str(rebuild.data), True), (str(large.folder / "fast"), True)]


def test_tablespace_after_interruption(tablespace: str, rebuild: Rebuild, workdir: Path) -> None:
    """Go on with a Barman that wants empty folders, and has no delta restore."""
    folder = workdir / "faster"
    folder.mkdir()
    give(folder)
    rebuild.step("keep")
    for _ in range(2):
        rebuild.step("clear", "empty", str(folder))
        assert list(folder.iterdir()) == []
        rebuild.restore("--tablespace", f"{tablespace}:{folder}")
        give(folder)
    rebuild.step("place", "20261129T001817")
    assert sum(path.stat().st_size for path in folder.rglob("*")) > 10 * MIB
    assert [link.resolve() for link in (rebuild.data / "pg_tblspc").iterdir()] == [folder]


@pytest.mark.usefixtures("backed_up")
def test_gap_in_archive(rebuild: Rebuild) -> None:
    begin = rebuild.find_backup()["backup"]["begin_wal"]
    rebuild.barman.file(rebuild.server, begin).unlink()
    assert rebuild.find_backup()["wal"]["missing"] == begin


@pytest.mark.usefixtures("backed_up")
def test_backup_not_there(rebuild: Rebuild) -> None:
    assert "it has no backup 20200101T000000" in rebuild.find_backup(backup="20200101T000000")["error"]


@pytest.mark.parametrize(
    "command",
    [
        "sh",
        "id",
        "rm -fr {data}",
        "cat /etc/passwd",
        "cat {new}/../../main/PG_VERSION",
        "test -e /etc/passwd; id",
        "mkdir -p {data}",
        "touch {data}/x",
        "ln -s /etc {new}/pg_tblspc/1",
        "mv {new}/backup_manifest /tmp/x",
        "rsync --server -re.iLsfxCIvu . {data}",
        "rsync --server --sender -re.iLsfxCIvu . /etc",
        "rsync --server -lre.iLsfxCIvu . {new}",
        "rsync --server -re.iLsfxCIvu --remove-source-files . {new}",
        "rsync --server -re.iLsfxCIvu --backup-dir=/tmp . {new}",
        "rsync /etc/passwd {new}",
        "",
    ],
)
def test_refused_command(rebuild: Rebuild, command: str) -> None:
    """Let Barman's restore do its work and nothing else, whoever has the key."""
    asked = rebuild.ask(command.format(data=rebuild.data, new=rebuild.new))
    assert asked.returncode == 120
    assert "this key restores a backup, and no more" in asked.stderr
    assert asked.stdout == ""
    assert not rebuild.data.exists()
