"""Test what becomes of the copy that a rebuild makes."""

from pathlib import Path
from types import SimpleNamespace
from typing import List, Optional

import pytest

from tests.support.role_templar import load_script

examine_backup, place_data = map(load_script, ("examine_backup", "place_data"))
GIB = 1 << 30
SIZE = 16 << 20
NAME = "20261129T001817"


def test_place_of_copy(tmp_path: Path) -> None:
    """Keep the old directory and its settings, and leave nothing of Barman's."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    data.mkdir()
    (data / "PG_VERSION").write_text("15")
    (data / "postgresql.auto.conf").write_text("primary_conninfo = 'host=angus'\n")
    places = place_data.Places(str(data), str(container))
    place_data.keep(places)
    for name in ("pg_wal", "barman_wal"):
        (container / "new" / name).mkdir(parents=True)
    (container / "new" / "postgresql.auto.conf").write_text("restore_command = 'barman-wal-restore x'\n")
    for name in (".barman-recover.info", "backup_manifest.1", "postgresql.auto.conf.origin", "recovery.signal"):
        (container / "new" / name).write_text("")
    (note,) = place_data.place(places, 15, NAME)
    assert "the old data directory is kept" in note
    assert sorted(path.name for path in data.iterdir()) == [
        *("pg_wal", "postgresql.auto.conf", "standby.signal", "walbasin.placed")
    ]
    assert "host=angus" in (data / "postgresql.auto.conf").read_text()
    place_data.tidy(places)
    assert [path.name[:4] for path in container.iterdir()] == ["old-"]
    assert list(place_data.place(places, 15, NAME)) == []


def test_settings_of_backup(tmp_path: Path) -> None:
    """Take the backup's settings where none are left, without another's recovery."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    places = place_data.Places(str(data), str(container))
    place_data.keep(places)
    (container / "new" / "pg_wal").mkdir(parents=True)
    (container / "new" / "postgresql.conf").write_text("archive_command = false\n")
    (container / "new" / "postgresql.conf.origin").write_text("archive_command = 'x'\nhba_file = '/etc/hba'\n")
    (container / "new" / "postgresql.auto.conf").write_text("work_mem = '8MB'\nrestore_command = 'y'\n")
    assert list(place_data.place(places, 15, NAME)) == [
        "postgresql.conf is the backed-up server's: hba_file = '/etc/hba'"
    ]
    assert (data / "postgresql.conf").read_text() == "archive_command = 'x'\nhba_file = '/etc/hba'\n"
    assert (data / "postgresql.auto.conf").read_text() == "work_mem = '8MB'\n"


@pytest.mark.parametrize(
    ("words", "left"),
    [([], {"main", "new"}), (["discard"], {"new"}), (["empty"], {"main"}), (["delta", "discard"], {"new"})],
)
def test_room_with_begun_copy(tmp_path: Path, words: List[str], left: set[str]) -> None:
    data, new = tmp_path / "main", tmp_path / "main.rebuild" / "new"
    for folder in (data, new):
        folder.mkdir(parents=True)
    place_data.main("clear", str(data), str(new.parent), "15", *words)
    assert {path.name for path in (data, new) if path.exists()} == left


def test_interrupted_discard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no server with half of what is to be removed, and go on the next time."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    for folder in (data, container):
        folder.mkdir()
    (data / "PG_VERSION").write_text("15")
    words = ("clear", str(data), str(container), "15", "discard")
    with monkeypatch.context() as patched:
        patched.setattr(place_data.shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError(16, "busy", path)))
        with pytest.raises(OSError, match="busy"):
            place_data.main(*words)
    assert not data.exists()
    place_data.main(*words)
    place_data.main("tidy", *words[1:4])
    assert not container.exists()


def test_claimed_tablespaces(tmp_path: Path) -> None:
    """Remember what runs have begun to fill, until the copy has its place."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    claimed = container / "tablespaces"
    (container / "new").mkdir(parents=True)
    for folders in (["/srv/a"], ["/srv/b", "/srv/c"], ["/srv/a", "/srv/b"]):
        place_data.main("clear", str(data), str(container), "15", *folders)
    assert claimed.read_text().split() == ["/srv/a", "/srv/b", "/srv/c"]
    place_data.main("place", str(data), str(container), "15", NAME)
    assert not claimed.exists()


@pytest.mark.parametrize("is_emptied", [False, True])
def test_folder_of_tablespace(tmp_path: Path, is_emptied: bool) -> None:
    """Empty what a Barman refuses that wants empty folders: of this version alone."""
    data, container, fast = tmp_path / "main", tmp_path / "main.rebuild", tmp_path / "[fast]"
    for folder in (container, fast / "PG_15_202209061" / "5", fast / "PG_14_202107181"):
        folder.mkdir(parents=True)
    place_data.main("clear", str(data), str(container), "15", *(["empty"] if is_emptied else []), str(fast))
    left = {"PG_14_202107181"} if is_emptied else {"PG_14_202107181", "PG_15_202209061"}
    assert {path.name for path in fast.iterdir()} == left


@pytest.mark.parametrize(("version", "expected"), [(11, "primary_conninfo = 'host=angus'\n"), (15, None)])
def test_recovery_conf(tmp_path: Path, version: int, expected: Optional[str]) -> None:
    """Give back how to stream, and leave restore_command to the role."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    data.mkdir()
    (data / "PG_VERSION").write_text(str(version))
    for name in ("recovery.conf", "postgresql.auto.conf"):
        (data / name).write_text("primary_conninfo = 'host=angus'\nrestore_command = 'x'\n")
    places = place_data.Places(str(data), str(container))
    place_data.keep(places)
    (container / "new" / "pg_wal").mkdir(parents=True)
    list(place_data.place(places, version, NAME))
    assert (data / "postgresql.auto.conf").read_text() == "primary_conninfo = 'host=angus'\n"
    found = data / "recovery.conf"
    assert (found.read_text() if found.exists() else None) == expected


@pytest.mark.parametrize(("new", "rate"), [(GIB, 5_000_000), (GIB // 10, 0)])
def test_rate_of_a_backup_with_little_new(new: int, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no rate from a backup that has copied a part of its files (reuse_backup)."""
    base = {
        "throughput_bytes": 5_000_000.0,
        "backup_size_bytes": new,
        "begin_wal": "0" * 24,
        "end_time_timestamp": "1",
    }
    shown = {
        "cluster_size_bytes": GIB,
        "base_backup_information": base,
        "postgresql_version": "150004",
        "tablespaces": [],
    }
    barman = examine_backup.Barman("angus", "")
    monkeypatch.setattr(barman, "ask", lambda command, *_: {} if command == "list-backup" else shown)
    monkeypatch.setattr(barman, "run", lambda *_: "/b/1/data/PG_VERSION\n")
    monkeypatch.setattr(examine_backup, "choose", lambda *_: "1")
    control = SimpleNamespace(system_identifier=7, segment_size=SIZE)
    monkeypatch.setattr("walbasin.local.data_directory.read", lambda _: control)
    assert barman.find_backup("").rate == rate


def test_old_directory_for_delta(tmp_path: Path) -> None:
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    data.mkdir()
    container.mkdir()
    (data / "PG_VERSION").write_text("15")
    place_data.main("clear", str(data), str(container), "15", "delta", "discard")
    assert not data.exists()
    assert (container / "new" / "PG_VERSION").exists()
