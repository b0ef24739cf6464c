"""Where Barman keeps WAL, told by its configuration: written here as an administrator would."""

import logging
from pathlib import Path

import pytest
from walbasin.gate import barman_archive
from walbasin.gate.barman_archive import Folders, UnknownFolders

SEGMENT = "0000000100000002000000FE"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Barman with one server, in its own file, as the packages suggest."""
    (tmp_path / "barman.d").mkdir()
    (tmp_path / "barman.conf").write_text(
        f"[barman]\nbarman_home = {tmp_path}\nconfiguration_files_directory = {tmp_path}/barman.d\n"
        f"log_file = {tmp_path}/barman.log\n"
    )
    (tmp_path / "barman.d" / "angus.conf").write_text("[angus]\ndescription = the primary\n")
    (tmp_path / "angus" / "wals").mkdir(parents=True)
    return tmp_path


def folders(home: Path, server: str = "angus") -> Folders:
    return barman_archive.find_folders(barman_archive.read_config(str(home / "barman.conf")), server)


def test_the_folders_are_barmans_own(home: Path) -> None:
    assert folders(home) == Folders(*(str(home / "angus" / name) for name in ("wals", "incoming", "streaming")))


def test_a_server_may_have_its_own_folders(home: Path) -> None:
    (home / "elsewhere" / "w").mkdir(parents=True)
    (home / "barman.d" / "angus.conf").write_text(
        "[angus]\nbackup_directory = %(barman_home)s/elsewhere\nwals_directory = '%(backup_directory)s/w'\n"
    )
    where = folders(home)
    assert (where.wals, where.incoming) == (str(home / "elsewhere" / "w"), str(home / "elsewhere" / "incoming"))


def test_what_config_update_has_written_wins(home: Path) -> None:
    (home / "new").mkdir()
    (home / ".barman.auto.conf").write_text(f"[angus]\nwals_directory = {home}/new\n")
    assert folders(home).wals == str(home / "new")


@pytest.mark.parametrize("server", ["chris", "barman", "DEFAULT"])
def test_a_server_that_barman_does_not_know_has_none(home: Path, server: str) -> None:
    with pytest.raises(UnknownFolders, match="no server"):
        folders(home, server)


def test_folders_that_a_model_may_have_changed_are_not_guessed(home: Path) -> None:
    (home / "angus" / ".active-model.auto").write_text("standby\n")
    with pytest.raises(UnknownFolders, match="model"):
        folders(home)


def test_wal_in_a_cloud_is_not_here(home: Path) -> None:
    (home / "barman.d" / "angus.conf").write_text("[angus]\nwals_directory = s3://bucket/wals\n")
    with pytest.raises(UnknownFolders, match="not a folder here"):
        folders(home)


@pytest.mark.parametrize("text", ["", "[angus\n", "[barman]\nbarman_home = %(nowhere)s\n"])
def test_a_configuration_that_cannot_be_read_is_named(home: Path, text: str) -> None:
    (home / "barman.conf").write_text(text)
    with pytest.raises(UnknownFolders):
        folders(home)


def test_without_a_configuration_it_says_where_it_looked(home: Path) -> None:
    with pytest.raises(UnknownFolders, match=r"no configuration in .*missing\.conf"):
        barman_archive.read_config(str(home / "missing.conf"))


def test_wals_is_looked_at_twice_because_the_archiver_moves_files_there() -> None:
    where = Folders("/b/wals", "/b/incoming", "/b/streaming")
    archived = f"/b/wals/{SEGMENT[:16]}/{SEGMENT}"
    assert barman_archive.candidate_paths(where, SEGMENT) == [
        archived,
        f"/b/incoming/{SEGMENT}",
        f"/b/streaming/{SEGMENT}",
        archived,
    ]
    assert barman_archive.candidate_paths(where, "00000002.history")[0] == "/b/wals/00000002.history"


def test_an_archive_that_has_gone_has_not_nothing(home: Path) -> None:
    where = folders(home)
    assert barman_archive.open_file(where, SEGMENT) is None
    (home / "angus").rename(home / "elsewhere")
    with pytest.raises(FileNotFoundError, match="angus/wals"):
        barman_archive.open_file(where, SEGMENT)


def test_barmans_log_has_barmans_format(home: Path) -> None:
    logger = barman_archive.open_log(barman_archive.read_config(str(home / "barman.conf")))
    logger.info("Sending WAL '%s'", SEGMENT)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logging.raiseExceptions = True
    assert (home / "barman.log").read_text().endswith(f"walbasin.gate INFO: Sending WAL '{SEGMENT}'\n")
