"""Test roles/standby/files/write_settings.py, which writes PostgreSQL's settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from tests.support.role_templar import ROLE

SCRIPT = (ROLE / "files/write_settings.py").read_text(encoding="utf-8")
HEAD = "# Written by Ansible (walbasin.barman.standby).\n"
OURS = "restore_command = '/usr/local/bin/barman-wal-restore -p 8 barman angus %f \"%p\"'"
GUARDED = OURS.replace("'/usr", "'[ -x /usr/local/bin/barman-wal-restore ] && exec /usr", 1)


def start(path: Path, **wanted: Any) -> "subprocess.CompletedProcess[str]":
    wanted = {"path": str(path), "check": False, "group": os.getegid(), "mode": "0640", **wanted}
    return subprocess.run(
        [sys.executable, "-IS", "-c", SCRIPT], input=json.dumps(wanted), capture_output=True, text=True, check=False
    )


def told(path: Path, **wanted: Any) -> List[str]:
    """Return what a run says that it has changed."""
    run = start(path, **wanted)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_new_file(tmp_path: Path) -> None:
    path = tmp_path / "walbasin.conf"
    expected = [f"{path}:", f"+ {HEAD.strip()}", f"+ {OURS}"]
    assert told(path, text=f"{HEAD}{OURS}\n", check=True) == expected
    assert not path.exists()
    assert told(path, text=f"{HEAD}{OURS}\n") == expected
    assert path.read_text() == f"{HEAD}{OURS}\n"
    assert oct(path.stat().st_mode & 0o777) == "0o640"
    assert list(tmp_path.iterdir()) == [path]
    assert told(path, text=f"{HEAD}{OURS}\n") == []


def test_mode_of_own_file(tmp_path: Path) -> None:
    path = tmp_path / "walbasin.conf"
    path.write_text(HEAD)
    path.chmod(0o644)
    assert told(path, text=HEAD) == [f"{path}:", "mode: 0644 becomes 0640"]
    assert told(path, text=HEAD) == []


def test_backup(tmp_path: Path) -> None:
    path = tmp_path / "recovery.conf"
    path.write_text("primary_conninfo = 'x'\n")
    told(path, text=HEAD, backup=True)
    (backup,) = tmp_path.glob("recovery.conf.*~")
    assert backup.read_text() == "primary_conninfo = 'x'\n"
    assert oct(backup.stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (OURS, OURS),
        (GUARDED, GUARDED),
        ("restore_command = 'AWS_KEY=tiger wal-g wal-fetch %f %p'", "restore_command = '********'"),
        ("restore_command = 'x; /usr/local/bin/barman-wal-restore tiger'", "restore_command = '********'"),
        ("primary_conninfo = 'host=a password=tiger user=b'", "primary_conninfo = 'host=a password=******** user=b'"),
        (
            "PRIMARY_CONNINFO='host=a password=''ti ger=1'' user=b'",
            "PRIMARY_CONNINFO='host=a password=******** user=b'",
        ),
        (r"primary_conninfo = 'host=a password=''ti\\''ger'''", "primary_conninfo = 'host=a password=********'"),
        ("primary_conninfo = 'postgresql://u:tiger@a'", "primary_conninfo = '********'"),
        ("primary_conninfo = 'host=a password = tiger'", "primary_conninfo = 'host=a password=********'"),
        ("primary_conninfo = 'host=''a", "primary_conninfo = '********'"),
        ("primary_conninfo = 'sslpassword=tiger'", "primary_conninfo = 'sslpassword=********'"),
        ("primary_conninfo = 'host=a' # password tiger", "primary_conninfo = '********'"),
        ("# primary_conninfo = 'password=tiger'", "# ********"),
        ("recovery_target_timeline = 'latest'", "recovery_target_timeline = 'latest'"),
        ("standby_mode on", "standby_mode on"),
        ("standby_mode = on # tiger", "standby_mode = '********'"),
        ("archive_command = 'PGPASSWORD=tiger x'", "archive_command = '********'"),
        ("tiger", "********"),
    ],
)
@pytest.mark.parametrize("sign", ["+", "-"])
def test_no_secret_in_difference(tmp_path: Path, sign: str, line: str, shown: str) -> None:
    path = tmp_path / "recovery.conf"
    if sign == "-":
        path.write_text(f"{line}\n")
        path.chmod(0o640)
    assert told(path, text=f"{line}\n" if sign == "+" else "") == [f"{path}:", f"{sign} {shown}"]


def test_changed_password(tmp_path: Path) -> None:
    path = tmp_path / "walbasin.conf"
    told(path, text="primary_conninfo = 'password=a'\n")
    masked = "primary_conninfo = 'password=********'"
    assert told(path, text="primary_conninfo = 'password=b'\n") == [f"{path}:", f"- {masked}", f"+ {masked}"]


def test_edited_file(tmp_path: Path) -> None:
    """Keep every other byte, the mode, and a carriage return."""
    path = tmp_path / "postgresql.conf"
    before = b"# Gr\xfc\xdfe\x0c\nport = 5432\r\ninclude_if_exists = 'walbasin.conf'\nlast = 1"
    path.write_bytes(before)
    path.chmod(0o604)
    line = "include_if_exists = 'walbasin.conf'"
    assert told(path, append=line) == []
    assert told(path, remove=f"{line}$") == [f"{path}:", f"- {line}"]
    assert path.read_bytes() == before.replace(line.encode() + b"\n", b"") + b"\n"
    assert told(path, append=line) == [f"{path}:", f"+ {line}"]
    assert path.read_bytes().endswith(b"last = 1\n" + line.encode() + b"\n")
    assert oct(path.stat().st_mode & 0o777) == "0o604"
    assert told(tmp_path / "none.conf", append=line) == []


@pytest.mark.parametrize(("before", "is_left"), [(f"{HEAD}{OURS}\n", False), (f"{OURS}\na = 1\n", True), (HEAD, False)])
def test_file_without_settings(tmp_path: Path, before: str, is_left: bool) -> None:
    path = tmp_path / "walbasin.conf"
    path.write_text(before)
    assert told(path, remove="restore_command", is_removed_if_empty=True)[0] == f"{path}:"
    assert path.exists() == is_left
    assert told(path, remove="restore_command", is_removed_if_empty=True) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_no_regular_file(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "recovery.conf", tmp_path / "target"
    target.write_text("secret\n")
    if kind == "link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    run = start(path, text=HEAD)
    assert run.returncode == 1
    assert run.stderr.startswith(f"{path}: ") and "Traceback" not in run.stderr
    assert target.read_text() == "secret\n"


def test_folder_of_another(tmp_path: Path) -> None:
    run = start(tmp_path / "none" / "walbasin.conf", text=HEAD)
    assert (run.returncode, run.stderr) == (1, f"{tmp_path}/none/walbasin.conf: No such file or directory\n")
