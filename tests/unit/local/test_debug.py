import re
from pathlib import Path

import pytest
from walbasin.local import debug


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(debug, "_path", str(tmp_path / "debug"))
    return tmp_path / "debug"


def test_lines_with_time_and_process(file: Path) -> None:
    debug.debug("first")
    debug.debug("ünd second")
    first, second = file.read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \[\d+\] first", first)
    assert second.endswith("ünd second")
    assert file.stat().st_mode & 0o777 == 0o600


def test_traceback(file: Path) -> None:
    try:
        dict[str, str]()["x"]
    except KeyError as error:
        text = debug.traceback_of(error)
    assert text.startswith("Traceback")
    assert text.endswith("KeyError: 'x'")
    assert text in file.read_text()


def test_no_file_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(debug, "_path", "")
    debug.debug("nothing")
    assert list(tmp_path.iterdir()) == []


def test_file_not_writable(file: Path) -> None:
    file.mkdir()
    debug.debug("nothing")


def test_link_not_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    file.symlink_to(tmp_path / "victim")
    debug.debug("nothing")
    assert (tmp_path / "victim").read_text() == ""
