"""Test what says that a standby is to be promoted."""

import os
import time
from pathlib import Path

import pytest
from walbasin.local import data_directory, promotion
from walbasin.local.promotion import Promotion, was_removal

from tests.support.wal_builder import build_data_directory


def watch(folder: Path, started: int | None) -> Promotion:
    """Return what is watched where a server was started, in seconds since 1970."""
    if started is not None:
        (folder / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}\n{started}\n")
    cluster = data_directory.read(str(folder))
    assert cluster
    return promotion.watch(cluster)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_data_directory(tmp_path / "main", 15, 1, "standby.signal")


@pytest.mark.parametrize(
    ("files", "is_removal"),
    [
        ([], True),
        ([100.0, 999.9, 1000.1], True),
        ([100.0, 1000.0], False),
        ([999.99], False),  # a file that was renamed, by the kernel's coarse clock
        ([1000.01], False),
    ],
)
def test_change_of_the_data_directory(files: list[float], is_removal: bool) -> None:
    assert was_removal(1000.0, files) is is_removal


def test_file_of_pg_ctl(folder: Path) -> None:
    watched = watch(folder, int(time.time()))
    assert not watched.is_asked_for()
    (folder / "promote").touch()
    assert watched.is_asked_for()
    (folder / "promote").unlink()
    assert not watched.has_file()


def test_file_that_was_taken_away(folder: Path) -> None:
    watched = watch(folder, int(time.time()) - 3600)
    set_age(folder, 3600)
    assert not watched.is_asked_for()
    take_away(folder / "promote")
    assert watched.is_asked_for()
    assert not watched.has_file()


def take_away(file: Path) -> None:
    """Make a file, and remove it, when those beside it have not changed for a while."""
    file.touch()
    time.sleep(0.05)
    file.unlink()


def set_age(folder: Path, seconds: int) -> None:
    then = time.time() - seconds
    os.utime(folder, (then, then))


@pytest.mark.parametrize(("age", "started", "is_asked_for"), [(5, 3600, True), (15, 3600, False), (-5, 3600, False)])
def test_time_of_the_change(folder: Path, age: int, started: int, is_asked_for: bool) -> None:
    """Believe no old change, nor one by another clock, as of a shared disk."""
    watched = watch(folder, int(time.time()) - started)
    set_age(folder, age)
    assert watched.is_asked_for() is is_asked_for


def test_start_of_the_server(folder: Path) -> None:
    watched = watch(folder, int(time.time()))
    take_away(folder / "promote")
    assert not watched.is_asked_for()


@pytest.mark.parametrize("name", ["current_logfiles", "postgresql.auto.conf", "backup_label.old"])
def test_file_that_was_put_there(folder: Path, name: str) -> None:
    """See no promotion in a new log file, ALTER SYSTEM, or what follows a backup."""
    watched = watch(folder, int(time.time()) - 3600)
    (folder / f"{name}.tmp").touch()
    time.sleep(0.05)
    (folder / f"{name}.tmp").rename(folder / name)
    assert not watched.is_asked_for()


def test_cluster_without_a_server(folder: Path) -> None:
    watched = watch(folder, None)
    take_away(folder / "promote")
    assert not watched.is_asked_for()


def test_data_directory_that_is_gone(folder: Path, tmp_path: Path) -> None:
    watched = watch(folder, int(time.time()) - 3600)
    folder.rename(tmp_path / "away")
    assert not watched.is_asked_for()
    assert not Promotion().is_asked_for()
