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


class Place:
    """A spool folder, a data directory, and how to open the one for the other."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "spool"
        self.data = build_data_directory(folder / "main")
        self.destination = self.data / "pg_wal" / "RECOVERYXLOG"

    def open(self, host: str = "barman", server: str = "angus", data: "Path | None" = None) -> Spool:
        found = data_directory.read(str(data or self.data))
        assert found
        return Spool(str(self.root), found, host, server)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def put(into: Spool, name: str = NAME, content: bytes = CONTENT) -> None:
    with into.create(name) as file:
        file.write(content)
    into.commit(name)


def test_it_is_made_where_it_is_missing_and_is_its_owners_alone(place: Place) -> None:
    previous = os.umask(0)
    try:
        place.open()
    finally:
        os.umask(previous)
    folders = [place.root, *(path for path in place.root.rglob("*") if path.is_dir())]
    assert len(folders) == 3
    assert {folder.stat().st_mode & 0o7777 for folder in folders} == {0o700}


def test_what_was_kept_is_handed_over_once(place: Place) -> None:
    ours = place.open()
    put(ours)
    assert ours.deliver(NAME, str(place.destination))
    assert place.destination.read_bytes() == CONTENT
    assert place.destination.stat().st_mode & 0o077 == 0
    assert not ours.deliver(NAME, str(place.destination))
    assert place.files() == []


def test_a_hand_over_is_a_rename_where_it_can_be(place: Place) -> None:
    ours = place.open()
    assert ours.is_same_filesystem(str(place.data / "pg_wal"))
    put(ours)
    (inode,) = (path.stat().st_ino for path in place.root.rglob(NAME))
    assert ours.deliver(NAME, str(place.destination))
    assert place.destination.stat().st_ino == inode


@pytest.mark.skipif(not os.access(SHARED_MEMORY, os.W_OK), reason="no second filesystem here")
def test_on_another_filesystem_it_is_a_copy_that_appears_whole(place: Place) -> None:
    destination = SHARED_MEMORY / f"walbasin-test-{os.getpid()}"
    ours = place.open()
    assert not ours.is_same_filesystem(str(SHARED_MEMORY))
    put(ours, content=CONTENT * 100_000)
    try:
        assert ours.deliver(NAME, str(destination))
        assert destination.read_bytes() == CONTENT * 100_000
        assert not ours.deliver(NAME, str(destination))
    finally:
        destination.unlink(missing_ok=True)
    assert place.files() == []


def test_what_is_not_kept_yet_is_not_handed_over(place: Place) -> None:
    ours = place.open()
    with ours.create(NAME) as file:
        file.write(CONTENT)
    assert ours.names() == []
    assert not ours.deliver(NAME, str(place.destination))
    assert not place.destination.exists()
    ours.abort(NAME)
    assert place.files() == []


def test_names_are_in_order_and_are_segments_only(place: Place) -> None:
    ours = place.open()
    put(ours, NEXT)
    put(ours, NAME)
    ours.record_outage()
    ours.create("000000010000000000000003").close()
    assert ours.names() == [NAME, NEXT]
    ours.remove([NAME, "000000010000000000000009"])
    assert ours.names() == [NEXT]


def test_a_destination_that_cannot_be_written_keeps_the_segment(place: Place) -> None:
    ours = place.open()
    put(ours)
    place.destination.mkdir()
    with pytest.raises(OSError):
        ours.deliver(NAME, str(place.destination))
    assert ours.names() == [NAME]


def test_another_host_server_cluster_or_copy_sees_nothing_of_it(place: Place, tmp_path: Path) -> None:
    put(place.open())
    copy = build_data_directory(tmp_path / "copy", 15, OURS)
    other = build_data_directory(tmp_path / "other", 15, FOREIGN)
    for foreign in (
        place.open(host="barman2"),
        place.open(server="berta"),
        place.open(data=copy),
        place.open(data=other),
    ):
        assert foreign.names() == []
    assert place.open().names() == [NAME]


@pytest.mark.parametrize(
    ("host", "server"), [("../../etc", "angus"), ("barman", "../angus"), ("a/b", "c\0d"), ("::1", "ängüs"), ("..", ".")]
)
def test_no_name_leads_out_of_the_spool_folder(place: Place, host: str, server: str) -> None:
    put(place.open(host, server))
    assert place.files() == [NAME]


def test_names_that_differ_have_folders_that_differ() -> None:
    own = data_directory.DataDirectory(
        path="/data",
        major_version=15,
        system_identifier=OURS,
        device=1,
        inode=2,
        mode="standby",
        postmaster_id=None,
        segment_size=DEFAULT_SIZE,
    )
    pairs = [("a", "b"), ("a:b", ""), ("", "a:b"), ("a%3a", "b"), ("a:", "b"), ("a", ":b")]
    assert len({spool.folder_name(own, host, server) for host, server in pairs}) == len(pairs)


def test_a_link_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolRefused, match=str(place.root)):
        place.open()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_link_deeper_down_is_refused(place: Place, tmp_path: Path, depth: int) -> None:
    place.open()
    folder = [place.root, *sorted(path for path in place.root.rglob("*") if path.is_dir())][depth]
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(SpoolRefused):
        place.open()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770, 0o1777])
def test_a_folder_that_is_open_to_others_is_refused(place: Place, mode: int) -> None:
    place.root.mkdir()
    place.root.chmod(mode)
    with pytest.raises(SpoolRefused, match=f"mode {mode:o}"):
        place.open()


def test_a_folder_of_somebody_else_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.root.mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SpoolRefused, match=f"user {owner}"):
        place.open()


def test_a_file_in_its_place_is_refused(place: Place) -> None:
    place.root.touch()
    with pytest.raises(SpoolRefused, match="Not a directory"):
        place.open()


def test_a_planted_link_is_not_written_through(place: Place, tmp_path: Path) -> None:
    ours = place.open()
    (folder,) = place.root.glob("*/*")
    (folder / f"{NAME}.unfinished").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        ours.create(NAME)
    assert not (tmp_path / "victim").exists()


def test_a_reboot_makes_it_void(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot_id = tmp_path / "boot_id"
    monkeypatch.setattr(spool, "BOOT_ID", str(boot_id))
    boot_id.write_text("first-boot\n")
    put(place.open())
    assert place.open().names() == [NAME]
    boot_id.write_text("second-boot\n")
    after = place.open()
    assert after.names() == []
    assert not after.deliver(NAME, str(place.destination))
    assert place.files() == []


def test_only_one_at_a_time_fills_it(place: Place) -> None:
    first, second = place.open(), place.open()
    assert first.lock()
    assert not second.lock()


def test_who_fills_it_sweeps_what_a_killed_one_left(place: Place) -> None:
    ours = place.open()
    put(ours)
    ours.create(NEXT).close()
    assert place.open().lock()
    assert place.files() == [NAME]


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
def test_the_filesystem_keeps_four_segments_and_five_percent(free: int, total: int, segments: int) -> None:
    assert spool.free_segments(free * DEFAULT_SIZE, total * DEFAULT_SIZE, DEFAULT_SIZE) == segments


def test_room_is_that_of_its_own_filesystem(place: Place) -> None:
    status = os.statvfs(place.data)
    roomy = place.open().free_segments(DEFAULT_SIZE)
    expected = spool.free_segments(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, DEFAULT_SIZE)
    assert abs(roomy - expected) <= 4  # others write to it as well


def test_an_outage_is_remembered_until_it_ends(place: Place) -> None:
    ours = place.open()
    assert ours.outage_age() is None
    ours.record_outage()
    age = place.open().outage_age()
    assert age is not None
    assert 0 <= age < 5
    ours.clear_outage()
    assert ours.outage_age() is None
