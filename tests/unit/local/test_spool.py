import os
from pathlib import Path

import pytest
from walbasin.local import data_directory, spool
from walbasin.local.spool import Spool, SpoolRefused
from walbasin.wal.segment import DEFAULT_SIZE

from tests.support.wal_builder import FOREIGN, OURS, build_data_directory

NAME, NEXT = "000000010000000000000001", "000000010000000000000002"
CONTENT = b"as if it were WAL"
SHARED_MEMORY = Path("/dev/shm")


class Standby:
    """Hold a spool folder and a data directory, and open the one for the other."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "spool"
        self.data = build_data_directory(folder / "main")
        self.destination = self.data / "pg_wal" / "RECOVERYXLOG"

    def open(self, server: str = "angus", data: "Path | None" = None, may_create: bool = True) -> Spool:
        found = data_directory.read(str(data or self.data))
        assert found
        return Spool(str(self.root), found, server, may_create=may_create)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def standby(tmp_path: Path) -> Standby:
    return Standby(tmp_path)


def add(into: Spool, name: str = NAME, content: bytes = CONTENT) -> None:
    with into.create(name) as file:
        file.write(content)
    into.commit(name)


def test_folders_created(standby: Standby) -> None:
    previous = os.umask(0)
    try:
        standby.open()
    finally:
        os.umask(previous)
    folders = [standby.root, *(path for path in standby.root.rglob("*") if path.is_dir())]
    assert len(folders) == 3
    assert {folder.stat().st_mode & 0o7777 for folder in folders} == {0o700}


def test_deliver_once(standby: Standby) -> None:
    ours = standby.open()
    add(ours)
    assert ours.deliver(NAME, str(standby.destination))
    assert standby.destination.read_bytes() == CONTENT
    assert standby.destination.stat().st_mode & 0o077 == 0
    assert not ours.deliver(NAME, str(standby.destination))
    assert standby.files() == []


def test_deliver_by_rename(standby: Standby) -> None:
    ours = standby.open()
    assert ours.is_same_filesystem(str(standby.data / "pg_wal"))
    add(ours)
    (inode,) = (path.stat().st_ino for path in standby.root.rglob(NAME))
    assert ours.deliver(NAME, str(standby.destination))
    assert standby.destination.stat().st_ino == inode


@pytest.mark.skipif(not os.access(SHARED_MEMORY, os.W_OK), reason="no second filesystem here")
def test_deliver_to_another_filesystem(standby: Standby) -> None:
    destination = SHARED_MEMORY / f"walbasin-test-{os.getpid()}"
    ours = standby.open()
    assert not ours.is_same_filesystem(str(SHARED_MEMORY))
    add(ours, content=CONTENT * 100_000)
    try:
        assert ours.deliver(NAME, str(destination))
        assert destination.read_bytes() == CONTENT * 100_000
        assert not ours.deliver(NAME, str(destination))
    finally:
        destination.unlink(missing_ok=True)
    assert standby.files() == []


def test_uncommitted_segment(standby: Standby) -> None:
    ours = standby.open()
    with ours.create(NAME) as file:
        file.write(CONTENT)
    assert ours.names() == []
    assert not ours.deliver(NAME, str(standby.destination))
    assert not standby.destination.exists()
    ours.abort(NAME)
    assert standby.files() == []


def test_names(standby: Standby) -> None:
    ours = standby.open()
    add(ours, NEXT)
    add(ours, NAME)
    ours.record_outage("no route")
    ours.create("000000010000000000000003").close()
    assert ours.names() == [NAME, NEXT]
    ours.remove([NAME, "000000010000000000000009"])
    assert ours.names() == [NEXT]


def test_destination_not_writable(standby: Standby) -> None:
    ours = standby.open()
    add(ours)
    standby.destination.mkdir()
    with pytest.raises(OSError):
        ours.deliver(NAME, str(standby.destination))
    assert ours.names() == [NAME]


def test_foreign_segments_hidden(standby: Standby, tmp_path: Path) -> None:
    add(standby.open())
    copy = build_data_directory(tmp_path / "copy", 15, OURS)
    other = build_data_directory(tmp_path / "other", 15, FOREIGN)
    for foreign in (
        standby.open(server="berta"),
        standby.open(data=copy),
        standby.open(data=other),
    ):
        assert foreign.names() == []
    assert standby.open().names() == [NAME]


@pytest.mark.parametrize("server", ["../../etc", "../angus", "a/b", "c\0d", "::1", "ängüs", "..", "."])
def test_hostile_names(standby: Standby, server: str) -> None:
    add(standby.open(server))
    assert standby.files() == [NAME]


def test_folder_names_unique() -> None:
    cluster = data_directory.DataDirectory(
        path="/data",
        major_version=15,
        system_identifier=OURS,
        device=1,
        inode=2,
        mode="standby",
        postmaster_id=None,
        segment_size=DEFAULT_SIZE,
    )
    servers = ["a", "a:b", "a%3ab", "a/b", "a_b", ""]
    assert len({spool.folder_name(cluster, server) for server in servers}) == len(servers)


def test_link_refused(standby: Standby, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    standby.root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolRefused, match=str(standby.root)):
        standby.open()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_link_deeper_down_refused(standby: Standby, tmp_path: Path, depth: int) -> None:
    standby.open()
    folder = [standby.root, *sorted(path for path in standby.root.rglob("*") if path.is_dir())][depth]
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(SpoolRefused):
        standby.open()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770, 0o1777])
def test_folder_open_to_others(standby: Standby, mode: int) -> None:
    standby.root.mkdir()
    standby.root.chmod(mode)
    with pytest.raises(SpoolRefused, match=f"mode {mode:o}"):
        standby.open()


def test_folder_of_another_user(standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    standby.root.mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SpoolRefused, match=f"user {owner}"):
        standby.open()


def test_file_in_place_of_folder(standby: Standby) -> None:
    standby.root.touch()
    with pytest.raises(SpoolRefused, match="Not a directory"):
        standby.open()


def test_planted_link(standby: Standby, tmp_path: Path) -> None:
    ours = standby.open()
    (folder,) = standby.root.glob("*/*")
    (folder / f"{NAME}.unfinished").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        ours.create(NAME)
    assert not (tmp_path / "victim").exists()


def test_reboot(standby: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot_id = tmp_path / "boot_id"
    monkeypatch.setattr(spool, "BOOT_ID", str(boot_id))
    boot_id.write_text("first-boot\n")
    add(standby.open())
    assert standby.open().names() == [NAME]
    boot_id.write_text("second-boot\n")
    after = standby.open()
    assert after.names() == []
    assert not after.deliver(NAME, str(standby.destination))
    assert standby.files() == []


def test_lock(standby: Standby) -> None:
    first, second = standby.open(), standby.open()
    assert first.lock()
    assert not second.lock()


def test_sweep(standby: Standby) -> None:
    ours = standby.open()
    add(ours)
    ours.create(NEXT).close()
    assert standby.open().lock()
    assert standby.files() == [NAME]


@pytest.mark.parametrize(
    ("free", "total", "segments"),
    [
        (0, 100, 0),
        (4, 20, 0),  # the four spare segments
        (5, 20, 1),
        (104, 104, 98),  # 5 % of 104 are more than four: 5.2, so 98.8 are left
        (50, 1000, 0),  # the 5 %
        (51, 1000, 1),
        (3, 1000, 0),
    ],
)
def test_free_segments(free: int, total: int, segments: int) -> None:
    assert spool.free_segments(free * DEFAULT_SIZE, total * DEFAULT_SIZE, DEFAULT_SIZE) == segments


def test_free_segments_of_own_filesystem(standby: Standby) -> None:
    status = os.statvfs(standby.data)
    free = standby.open().free_segments(DEFAULT_SIZE)
    expected = spool.free_segments(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, DEFAULT_SIZE)
    assert abs(free - expected) <= 4  # others write to it as well


def test_outage(standby: Standby) -> None:
    ours = standby.open()
    assert ours.outage() is None
    ours.record_outage("ssh to barman failed: no route to host")
    outage = standby.open().outage()
    assert outage is not None
    assert 0 <= outage.age < 5
    assert outage.cause == "ssh to barman failed: no route to host"
    ours.clear_outage()
    assert ours.outage() is None


def test_notes_kept_by_clear(standby: Standby) -> None:
    ours = standby.open()
    add(ours)
    ours.save_note("host.skip.barman", "5")
    ours.clear()
    assert ours.names() == []
    assert ours.load_note("host.skip.barman") == "5"


def test_missing_spool_left_alone(standby: Standby) -> None:
    with pytest.raises(SpoolRefused, match=f"spool {standby.root} is missing"):
        standby.open(may_create=False)
    assert not standby.root.exists()
    standby.open()
    standby.open(may_create=False)


def test_no_boot_id(standby: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name what could not be read: a service with ProcSubset=pid has no boot_id."""
    monkeypatch.setattr(spool, "BOOT_ID", str(tmp_path / "boot_id"))
    with pytest.raises(SpoolRefused, match=f"{tmp_path}/boot_id: No such file"):
        standby.open()


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("mode", [0o770, 0o701, 0o777])
def test_opened_to_others(standby: Standby, depth: int, mode: int) -> None:
    ours = standby.open()
    assert ours.is_private()
    folder = [standby.root, *sorted(path for path in standby.root.rglob("*") if path.is_dir())][depth]
    folder.chmod(mode)
    assert not ours.is_private()
    ours.close_to_others()
    assert ours.is_private() == (depth > 0), "the folder above is the operator's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_somebody_else(standby: Standby) -> None:
    """Trust no file that was put in while the spool was open."""
    standby.open()
    (folder,) = (path for path in standby.root.rglob("*") if path.is_dir() and not any(path.iterdir()))
    for name, owner in ((NAME, os.geteuid()), (NEXT, 65534)):
        (folder / name).touch()
        os.chown(folder / name, owner, -1)
    assert standby.open().names() == [NAME]


@pytest.mark.parametrize("depth", [1, 2])
def test_refused_folder_unregistered(standby: Standby, depth: int) -> None:
    """Send the shell to Python where Python refuses the spool."""
    ours = standby.open()
    (standby.root / "link").symlink_to(ours._target)
    sorted(path for path in standby.root.rglob("*") if path.is_dir() and not path.is_symlink())[depth - 1].chmod(0o777)
    with pytest.raises(SpoolRefused, match="open to others"):
        standby.open()
    assert not (standby.root / "link").is_symlink()
