"""Find Barman's folders in configurations as an administrator writes them."""

import logging
import os
import time
from pathlib import Path

import pytest
from walbasin.gate import barman_archive, barman_config
from walbasin.gate.barman_archive import ArchiveMissing, Folders
from walbasin.gate.barman_config import UnknownFolders
from walbasin.wal.passive import PassiveNode

SEGMENT = "0000000100000002000000FE"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the home of a Barman with one server, which has its own file."""
    (tmp_path / "barman.d").mkdir()
    (tmp_path / "barman.conf").write_text(
        f"[barman]\nbarman_home = {tmp_path}\nconfiguration_files_directory = {tmp_path}/barman.d\n"
        f"log_file = {tmp_path}/barman.log\n"
    )
    (tmp_path / "barman.d" / "angus.conf").write_text("[angus]\ndescription = the primary\n")
    (tmp_path / "angus" / "wals").mkdir(parents=True)
    return tmp_path


def folders(home: Path, server: str = "angus") -> Folders:
    return barman_archive.find_folders(barman_config.read_config(str(home / "barman.conf"), server), server)


def test_default_folders(home: Path) -> None:
    assert folders(home) == Folders(*(str(home / "angus" / name) for name in ("wals", "incoming", "streaming")))


def test_folders_of_one_server(home: Path) -> None:
    (home / "elsewhere" / "w").mkdir(parents=True)
    (home / "barman.d" / "angus.conf").write_text(
        "[angus]\nbackup_directory = %(barman_home)s/elsewhere\nwals_directory = '%(backup_directory)s/w'\n"
    )
    where = folders(home)
    assert (where.wals, where.incoming) == (str(home / "elsewhere" / "w"), str(home / "elsewhere" / "incoming"))


def test_folders_from_config_update(home: Path) -> None:
    (home / "new").mkdir()
    (home / ".barman.auto.conf").write_text(f"[angus]\nwals_directory = {home}/new\n")
    assert folders(home).wals == str(home / "new")


@pytest.mark.parametrize("server", ["chris", "barman", "DEFAULT"])
def test_unknown_server(home: Path, server: str) -> None:
    with pytest.raises(UnknownFolders, match="no server"):
        folders(home, server)


def test_active_model(home: Path) -> None:
    """Look into the same folders: Barman allows no paths in a model."""
    (home / "angus" / ".active-model.auto").write_text("standby\n")
    assert folders(home).wals == str(home / "angus" / "wals")


@pytest.mark.parametrize("url", ["s3://bucket/wals", "azure://account.blob/container", "gs://bucket/wals"])
def test_wal_in_a_cloud(home: Path, url: str) -> None:
    (home / "barman.d" / "angus.conf").write_text(f"[angus]\nwals_directory = {url}\n")
    with pytest.raises(ArchiveMissing, match=f"keeps this WAL in {url}"):
        barman_archive.open_file(folders(home), SEGMENT)


def find_passive_node(home: Path) -> PassiveNode | None:
    config = barman_config.read_config(str(home / "barman.conf"), "angus")
    return barman_archive.find_passive_node(config, "angus")


@pytest.mark.parametrize(
    ("server", "model", "active", "expected"),
    [
        ("", "", "", None),
        ("primary_ssh_command = ssh barman@a", "", "", "a"),
        ("primary_ssh_command = ssh -q", "", "", ""),
        ("", "primary_ssh_command = ssh barman@a", "", None),
        ("", "primary_ssh_command = ssh barman@a", "angus:copy", "a"),
    ],
)
def test_passive_node(home: Path, server: str, model: str, active: str, expected: "str | None") -> None:
    (home / "barman.d" / "angus.conf").write_text(f"[angus]\n{server}\n[angus:copy]\nmodel = true\n{model}\n")
    if active:
        (home / "angus" / ".active-model.auto").write_text(active)
    node = find_passive_node(home)
    assert (node and node.source) == expected


def test_passive_node_age(home: Path) -> None:
    """Say how long ago the other Barman has answered: Barman writes a file then."""
    (home / "barman.d" / "angus.conf").write_text("[angus]\nprimary_ssh_command = ssh barman@a\n")
    assert find_passive_node(home) == PassiveNode("a", None)
    info = home / "angus" / "primary.info"
    info.touch()
    an_hour_ago = time.time() - 3600
    os.utime(info, (an_hour_ago, an_hour_ago))
    node = find_passive_node(home)
    assert node is not None and node.age is not None and 3600 <= node.age < 3660


def test_list_names(home: Path) -> None:
    where = folders(home)
    assert list(barman_archive.list_names(where)) == []
    for name in (f"wals/{SEGMENT[:16]}/{SEGMENT}", "wals/00000002.history", "wals/xlog.db", "wals/0001/x"):
        (home / "angus" / name).parent.mkdir(exist_ok=True)
        (home / "angus" / name).touch()
    (home / "angus" / "streaming").mkdir()
    (home / "angus" / "streaming" / "000000010000000200000100").touch()
    (home / "angus" / "streaming" / "000000010000000300000000.partial").touch()
    assert sorted(barman_archive.list_names(where)) == [SEGMENT, "000000010000000200000100", "00000002.history"]


@pytest.mark.parametrize("text", ["", "[angus\n", "[barman]\nbarman_home = %(nowhere)s\n"])
def test_unreadable_configuration(home: Path, text: str) -> None:
    (home / "barman.conf").write_text(text)
    with pytest.raises(UnknownFolders):
        folders(home)


def test_missing_configuration(home: Path) -> None:
    with pytest.raises(UnknownFolders, match=r"no configuration in .*missing\.conf"):
        barman_config.read_config(str(home / "missing.conf"))


def test_candidate_paths() -> None:
    where = Folders("/b/wals", "/b/incoming", "/b/streaming")
    archived = f"/b/wals/{SEGMENT[:16]}/{SEGMENT}"
    assert barman_archive.candidate_paths(where, SEGMENT) == [
        archived,
        f"/b/incoming/{SEGMENT}",
        f"/b/streaming/{SEGMENT}",
        archived,
    ]
    assert barman_archive.candidate_paths(where, "00000002.history")[0] == "/b/wals/00000002.history"


def test_archive_gone(home: Path) -> None:
    where = folders(home)
    assert barman_archive.open_file(where, SEGMENT) is None
    (home / "angus").rename(home / "elsewhere")
    with pytest.raises(ArchiveMissing, match="angus/wals is not a folder here"):
        barman_archive.open_file(where, SEGMENT)
    with pytest.raises(ArchiveMissing, match="angus/wals is not a folder here"):
        list(barman_archive.list_names(where))


def test_log_format(home: Path) -> None:
    logger = barman_archive.open_log(barman_config.read_config(str(home / "barman.conf")))
    logger.info("Sending WAL '%s'", SEGMENT)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logging.raiseExceptions = True
    assert (home / "barman.log").read_text().endswith(f"walbasin.gate INFO: Sending WAL '{SEGMENT}'\n")
