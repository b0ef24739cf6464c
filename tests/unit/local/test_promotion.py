"""Test what says that a standby is to be promoted."""

import os
import time
from pathlib import Path

import pytest
from walbasin.local import data_directory, promotion
from walbasin.local.promotion import Promotion, may_be_going_on

from tests.support.wal_builder import build_data_directory


def watch(folder: Path, started: float | str | None) -> Promotion:
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
    ("now", "changed", "started", "is_plausible"),
    [
        (1000.0, 999.9, 100, True),
        (1000.0, 991.0, 100, True),
        (1000.0, 990.0, 100, False),  # long ago
        (1000.0, 1000.1, 100, False),  # another clock's, of a shared disk
        (1000.0, 999.0, 995, False),  # the start's own changes
        (1000.0, 999.0, 993, True),
        (1000.0, 0.0, 0, False),
    ],
)
def test_change_of_the_data_directory(now: float, changed: float, started: float, is_plausible: bool) -> None:
    assert may_be_going_on(now, changed, started) is is_plausible


def test_file_of_pg_ctl(folder: Path) -> None:
    watched = watch(folder, int(time.time()))
    assert not watched.is_asked_for()
    (folder / "promote").touch()
    assert watched.is_asked_for()
    (folder / "promote").unlink()
    assert not watched.is_asked_for(), "the server has just been started"


def test_file_that_was_taken_away(folder: Path) -> None:
    watched = watch(folder, int(time.time()) - 3600)
    an_hour_ago = time.time() - 3600
    os.utime(folder, (an_hour_ago, an_hour_ago))
    assert not watched.is_asked_for()
    (folder / "promote").touch()
    (folder / "promote").unlink()
    assert watched.is_asked_for()


@pytest.mark.parametrize("started", [None, "", "soon"])
def test_server_without_start(folder: Path, started: str | None) -> None:
    watched = watch(folder, started)
    assert watched.is_asked_for() is (started is not None), "its data directory is fresh"


def test_data_directory_that_is_gone(folder: Path, tmp_path: Path) -> None:
    watched = watch(folder, int(time.time()) - 3600)
    folder.rename(tmp_path / "away")
    assert not watched.is_asked_for()
    assert not Promotion().is_asked_for()
