"""Complete a call by hand with what the role has recorded."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from walbasin.fetcher import deployed, main
from walbasin.fetcher.options import Options, parse

from tests.support.wal_builder import build_data_directory

COMMAND = (
    "/usr/local/bin/barman-wal-restore --ssh-config /etc/walbasin/angus/ssh_config --spool-dir '/srv/a %% b' "
    '-U backup -p 8 -s 10 barman angus %f "%p"'
)
BY_HAND = ["-t", "barman", "angus", "test", "pg_wal/test"]


class Etc:
    """Hold a folder in place of /etc/walbasin, and a data directory."""

    def __init__(self, folder: Path) -> None:
        self.data = build_data_directory(folder / "main")
        self.folder = folder / "etc"
        (self.folder / "angus").mkdir(parents=True)
        self.file = self.folder / "angus" / "standby.json"

    def record(self, **changes: object) -> None:
        found = {
            "barman_host": "barman",
            "barman_server": "angus",
            "data_directory": str(self.data),
            "postgres_user": "postgres",
            "spool_dir": "/srv/a % b",
            "restore_command": COMMAND,
        }
        self.file.write_text(json.dumps({**found, **changes}))

    def read(self, server: str = "angus") -> list[str]:
        return deployed.read_command("barman", server, str(self.data))


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Etc:
    etc = Etc(tmp_path)
    monkeypatch.setattr(deployed, "FOLDER", str(etc.folder))
    monkeypatch.setattr(deployed, "OWNER", os.geteuid())
    monkeypatch.chdir(etc.data)
    etc.record()
    return etc


def complete(*words: str) -> Options:
    return main._add_deployed(list(words), parse(list(words)))


def test_options_of_the_role(etc: Etc, capsys: pytest.CaptureFixture[str]) -> None:
    options = complete(*BY_HAND)
    assert (options.spool_dir, options.ssh_config) == ("/srv/a % b", "/etc/walbasin/angus/ssh_config")
    assert (options.user, options.parallel, options.sleep) == ("backup", 8, 10)
    assert (options.test, options.status, options.wal_name, options.wal_dest) == (True, False, "test", "pg_wal/test")
    assert f"those not given are taken from {etc.file}" in capsys.readouterr().out


def test_status_of_the_role(etc: Etc, capsys: pytest.CaptureFixture[str]) -> None:
    options = complete("--status", "--json", "barman", "angus")
    assert options.spool_dir == "/srv/a % b"
    assert (options.status, options.form, options.wal_name) == (True, "json", "")
    assert capsys.readouterr().out == ""


def test_precedence_of_options_by_hand(etc: Etc) -> None:
    options = complete("--spool-dir", "/mine", "-p", "0", "-U", "barman", *BY_HAND)
    assert (options.spool_dir, options.parallel, options.user) == ("/mine", 0, "barman")
    assert options.ssh_config == "/etc/walbasin/angus/ssh_config"


def test_whole_command_by_hand(etc: Etc, capsys: pytest.CaptureFixture[str]) -> None:
    """Say nothing where nothing is added: the hourly test has all options."""
    words = ["--ssh-config", "/etc/walbasin/angus/ssh_config", "--spool-dir", "/srv/a % b", "-U", "backup"]
    complete(*words, "-p", "8", "-s", "10", *BY_HAND)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("which", ["folder", "server", "file"])
@pytest.mark.parametrize("fault", ["group may write", "all may write", "of somebody else", "a link", "missing"])
def test_file_not_trusted(etc: Etc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, fault: str) -> None:
    path = {"folder": etc.folder, "server": etc.folder / "angus", "file": etc.file}[which]
    if fault.endswith("write"):
        path.chmod(0o775 if fault.startswith("group") else 0o757)
    elif fault == "of somebody else":
        monkeypatch.setattr(deployed, "OWNER", os.geteuid() + 1)
    else:
        path.rename(tmp_path / "moved")
        if fault == "a link":
            path.symlink_to(tmp_path / "moved")
    assert etc.read() == []


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ("[ -x /usr/local/bin/barman-wal-restore ] && exec ", ""),
        (
            "[ -x /usr/local/bin/barman-wal-restore ] && exec ",
            '; echo "barman-wal-restore is not installed" >&2; [ ! -e recovery.signal ] || exit 200; exit 1',
        ),
        ("""/bin/sh -c '[ -x "$0" ] && exec "$0" "$@"' """, ""),
    ],
)
def test_guarded_command(etc: Etc, before: str, behind: str) -> None:
    """Find the call where the role has written a guard around it (settings.yml)."""
    plain = etc.read()
    etc.record(restore_command=before + COMMAND + behind)
    assert etc.read() == plain != []


@pytest.mark.parametrize(
    "changes",
    [
        {"barman_host": "other"},
        {"barman_server": "berta"},
        {"data_directory": "/srv/other"},
        {"data_directory": 7},
        {"restore_command": None},
        {"restore_command": "cp /archive/%f %p"},
        {"restore_command": "'never closed"},
        {"restore_command": ""},
    ],
)
def test_of_another_standby(etc: Etc, changes: dict[str, Any]) -> None:
    etc.record(**changes)
    assert etc.read() == []


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "7", "[" * 100_000, "\xff"])
def test_file_unreadable(etc: Etc, text: str) -> None:
    etc.file.write_text(text, encoding="latin-1")
    assert etc.read() == []


def test_fifo(etc: Etc) -> None:
    etc.file.unlink()
    os.mkfifo(etc.file)
    assert etc.read() == []


@pytest.mark.parametrize("server", ["../angus", "angus/../angus", "..", "."])
def test_hostile_server_name(etc: Etc, server: str) -> None:
    assert etc.read(server) == []


def test_option_unknown(etc: Etc) -> None:
    etc.record(restore_command="barman-wal-restore --of-a-later-version barman angus %f %p")
    assert complete(*BY_HAND).spool_dir == "/var/tmp/barman-wal-restore"


@pytest.mark.parametrize(
    ("given", "is_found"),
    [("barman", True), ("barman2", True), ("barman2,barman", True), ("barman3", False), ("barman,barman3", False)],
)
def test_one_of_several_hosts(etc: Etc, given: str, is_found: bool) -> None:
    etc.record(barman_host="barman,barman2")
    assert bool(deployed.read_command(given, "angus", str(etc.data))) == is_found
