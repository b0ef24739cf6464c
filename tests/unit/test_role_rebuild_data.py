"""Test what a rebuild finds where the standby is to be."""

from pathlib import Path
from typing import Any, Dict

import pytest

from tests.support.role_templar import load_script

GIB = 1 << 30
examine_data, place_data = map(load_script, ("examine_data", "place_data"))


def examine(data: Path, *tablespaces: Path, size: int = 0, discards: bool = False) -> Dict[str, Any]:
    """Look at folders to which a backup of some size comes, of the same in each."""
    asked = {
        "data": str(data),
        "container": f"{data}.rebuild",
        "settings": [],
        "copied": {str(folder): size for folder in (data, *tablespaces)},
        "version": 15,
        "discards": discards,
    }
    found: Dict[str, Any] = examine_data.examine(asked)
    return found


def make_tablespace(folder: Path, *owners: Path, version: int = 15) -> Path:
    """Make a tablespace of some data directories, with a file of a MiB."""
    content = folder / f"PG_{version}_202209061"
    content.mkdir(parents=True)
    (content / "file").write_bytes(b"x" * (1 << 20))
    for owner in owners:
        (owner / "pg_tblspc").mkdir(parents=True, exist_ok=True)
        (owner / "pg_tblspc" / "16384").symlink_to(folder)
    return folder


def test_link_above(tmp_path: Path) -> None:
    """Name a link that Barman's copy may not follow."""
    (tmp_path / "real" / "main").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert not examine(tmp_path / "real" / "main")["is_link"]
    assert not examine(tmp_path / "real" / "gone")["is_link"]
    assert examine(tmp_path / "link" / "main")["is_link"]
    assert examine(tmp_path / "link" / "gone")["is_link"]


def claim(data: Path, *tablespaces: Path) -> None:
    """Be a run that was interrupted in its copy."""
    container = Path(f"{data}.rebuild")
    container.mkdir(exist_ok=True)
    place_data.main("clear", str(data), str(container), "15", *map(str, tablespaces))


def test_owners_of_tablespaces(tmp_path: Path) -> None:
    data, kept = tmp_path / "main", tmp_path / "main.rebuild" / "old-1"
    current = make_tablespace(tmp_path / "current", data)
    old = make_tablespace(tmp_path / "old", kept)
    begun = make_tablespace(tmp_path / "begun")
    other = make_tablespace(tmp_path / "other", version=14)
    claim(data, current, old, begun)
    found = examine(data, current, old, begun, other, tmp_path / "new")["tablespaces"]

    def which(key: str) -> list[Path]:
        return [Path(path) for path, each in found.items() if each[key]]

    assert which("is_current") == [current]
    assert which("is_kept") == [old]
    assert which("is_claimed") == [begun]
    assert which("is_foreign") == [other]
    assert which("is_used") == [current, old, begun, other]


def test_room_with_tablespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what can be used again, of a copy that was begun or an old one."""
    monkeypatch.setattr(examine_data, "free_bytes", lambda _: 0)
    data = tmp_path / "main"
    current, begun = make_tablespace(tmp_path / "current", data), make_tablespace(tmp_path / "begun")
    found = examine(data, current, begun)
    assert found["size"] >> 20 == 1
    assert [each["free"] for each in found["rooms"]] == [0]
    claim(data, begun)
    assert [each["free"] >> 20 for each in examine(data, current, begun)["rooms"]] == [1]
    assert [each["free"] >> 20 for each in examine(data, current, begun, discards=True)["rooms"]] == [2]


@pytest.mark.parametrize(("free", "is_enough"), [(GIB + 210, True), (GIB + 209, False)])
def test_room_on_one_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, is_enough: bool) -> None:
    """Ask for a margin, and once for what replay needs."""
    monkeypatch.setattr(examine_data, "free_bytes", lambda _: free)
    data = tmp_path / "main"
    (room,) = examine(data, tmp_path / "fast", size=100)["rooms"]
    assert (room["folder"], room["needed"], room["is_enough"]) == (str(data), GIB + 210, is_enough)


@pytest.mark.parametrize(
    ("folder", "is_apart"),
    [("fast", True), ("main/fast", False), ("main.rebuild/fast", False), (".", False), ("slow/fast", False)],
)
def test_tablespace_in_another_folder(tmp_path: Path, folder: str, is_apart: bool) -> None:
    found = examine(tmp_path / "main", tmp_path / "slow", tmp_path / folder)["tablespaces"]
    assert all(each["is_apart"] for each in found.values()) == is_apart


def test_old_tablespaces(tmp_path: Path) -> None:
    """Name what stays of a data directory that is discarded."""
    data = tmp_path / "main"
    slow, fast = make_tablespace(tmp_path / "slow", data), tmp_path / "fast"
    (data / "pg_tblspc" / "2").symlink_to(fast)
    assert examine(data, fast)["tablespaces_elsewhere"] == [str(slow)]


def test_other_clusters_within(tmp_path: Path) -> None:
    """Find them where somebody has named the folder above."""
    for each in ("15/main", "16/main"):
        (tmp_path / each / "global").mkdir(parents=True)
        (tmp_path / each / "global" / "pg_control").touch()
    assert examine(tmp_path)["clusters_within"] == [str(tmp_path / "15/main"), str(tmp_path / "16/main")]
    assert examine(tmp_path / "15")["clusters_within"] == [str(tmp_path / "15/main")]
    assert examine(tmp_path / "15/main")["clusters_within"] == []


def test_file_of_barman_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "fast").mkdir()
    (tmp_path / "fast" / ".barman_write_check").touch()
    (found,) = examine(tmp_path / "main", tmp_path / "fast")["tablespaces"].values()
    assert not found["is_used"]
    assert not found["is_foreign"]


def test_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine_data.os, "access", lambda *_: False)
    monkeypatch.setattr(examine_data.os, "listdir", lambda path: (_ for _ in ()).throw(PermissionError(path)))
    for each in ("main", "fast"):
        (tmp_path / each).mkdir()
    found = examine(tmp_path / "main", tmp_path / "fast")
    assert not found["is_readable"]
    assert not found["tablespaces"][str(tmp_path / "fast")]["can_write"]
