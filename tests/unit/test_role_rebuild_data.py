"""Test what a rebuild finds where the standby is to be."""

from pathlib import Path
from typing import Any, Dict

from tests.support.role_templar import load_script

examine_data = load_script("examine_data")


def examine(data: Path, *tablespaces: Path) -> Dict[str, Any]:
    asked = {
        "data": str(data),
        "container": f"{data}.rebuild",
        "settings": [],
        "tablespaces": list(map(str, tablespaces)),
        "version": 15,
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


def test_owners_of_tablespaces(tmp_path: Path) -> None:
    data, kept = tmp_path / "main", tmp_path / "main.rebuild" / "old-1"
    current = make_tablespace(tmp_path / "current", data)
    old = make_tablespace(tmp_path / "old", kept)
    other = make_tablespace(tmp_path / "other", version=14)
    found = examine(data, current, old, other, tmp_path / "new")["tablespaces"]

    def which(key: str) -> list[Path]:
        return [Path(path) for path, each in found.items() if each[key]]

    assert which("is_current") == [current]
    assert which("is_kept") == [old]
    assert which("is_foreign") == [other]
    assert which("is_used") == [current, old, other]


def test_room_with_tablespaces(tmp_path: Path) -> None:
    """Count what can be used again, of the old one or of a copy that was begun."""
    data = tmp_path / "main"
    current, begun = make_tablespace(tmp_path / "current", data), make_tablespace(tmp_path / "begun")
    found = examine(data, current, begun)
    assert found["size"] >> 20 == 1
    assert found["begun"] == 0
    (tmp_path / "main.rebuild" / "new").mkdir(parents=True)
    assert examine(data, current, begun)["begun"] >> 20 == 1
