import fcntl
import os
from pathlib import Path

import pytest
from walbasin.local.whole_file import SUFFIX, whole_file

CONTENT = b"as if it were WAL"


def test_destination_while_written(tmp_path: Path) -> None:
    destination = tmp_path / "RECOVERYXLOG"
    with whole_file(str(destination)) as file:
        file.write(CONTENT)
        file.flush()
        assert not destination.exists()
    assert destination.read_bytes() == CONTENT
    assert destination.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["RECOVERYXLOG"]


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [OSError, ValueError, Interrupted])
def test_nothing_left_after_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_file(str(tmp_path / "RECOVERYXLOG")) as file:
        file.write(CONTENT)
        raise error
    assert os.listdir(tmp_path) == []


def test_relative_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pg_wal").mkdir()
    monkeypatch.chdir(tmp_path)
    with whole_file("pg_wal/RECOVERYXLOG") as file:
        file.write(CONTENT)
    assert (tmp_path / "pg_wal" / "RECOVERYXLOG").read_bytes() == CONTENT


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(str(tmp_path / "gone" / "RECOVERYXLOG")):
        pytest.fail("there was nothing to write to")


def test_sweep(tmp_path: Path) -> None:
    dead = tmp_path / f"RECOVERYXLOG.1{SUFFIX}"
    living = tmp_path / f"RECOVERYXLOG.2{SUFFIX}"
    other = tmp_path / f"RECOVERYHISTORY.3{SUFFIX}"
    for file in (dead, living, other):
        file.write_bytes(CONTENT)
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with whole_file(str(tmp_path / "RECOVERYXLOG")) as file_:
            file_.write(CONTENT)
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, "RECOVERYXLOG", living.name])
