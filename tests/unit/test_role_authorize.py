"""Test roles/standby/files/authorize.py, which writes a standby's key line."""

import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from tests.support.role_templar import ROLE

SCRIPT = (ROLE / "files/authorize.py").read_text(encoding="utf-8")
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
OTHER = f"ssh-ed25519 {KEY[:-1]}B postgres@angus"


def line(standby: str = "chris", key: str = KEY) -> str:
    return f'restrict,from="10.0.0.3",command="gate angus" ssh-ed25519 {key} walbasin:{standby}:angus'


def start(path: Path, wanted: str, standby: str = "chris", check: bool = False) -> "subprocess.Popen[str]":
    command = [sys.executable, "-IS", "-c", SCRIPT, str(path), f"walbasin:{standby}:angus", str(check)]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdin
    run.stdin.write(wanted + "\n")
    run.stdin.close()
    run.stdin = None
    return run


def told(run: "subprocess.Popen[str]") -> List[str]:
    """Return what a run says that it did."""
    stdout, stderr = run.communicate()
    assert run.returncode == 0, stderr
    return stdout.splitlines()


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / ".ssh/authorized_keys"
    assert told(start(path, line())) == [f"+ {line()}"]
    assert path.read_text(encoding="utf-8") == f"{line()}\n"
    assert [oct(each.stat().st_mode & 0o777) for each in (path, path.parent)] == ["0o600", "0o700"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "before",
    [
        [OTHER],
        [OTHER, line(key=f"{KEY[:-1]}E"), line("chris2", f"{KEY[:-1]}I")],
        ["# by hand, in 2016", "", "#" + line(), OTHER],
        [line(), OTHER, line()],
        [OTHER, f"ssh-ed25519 {KEY} postgres@chris", line(key=f"{KEY[:-1]}E")],
    ],
    ids=["none", "another key", "commented out", "twice", "unrestricted as well"],
)
def test_former_lines(tmp_path: Path, before: List[str]) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text("\n".join(before), encoding="utf-8")
    assert told(start(path, line(), check=True)) != []
    assert path.read_text(encoding="utf-8") == "\n".join(before)
    assert told(start(path, line())) != []
    after = path.read_text(encoding="utf-8").splitlines()
    assert after.count(line()) == 1
    others = [each for each in after if each != line()]
    assert others == [each for each in before if KEY not in each and ":chris:" not in each]
    assert told(start(path, line())) == []


def test_empty_line(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"{OTHER}\n{line()}\n", encoding="utf-8")
    assert told(start(path, "")) == [f"- {line()}"]
    assert path.read_text(encoding="utf-8") == f"{OTHER}\n"


def test_file_open_to_others(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"{line()}\n", encoding="utf-8")
    path.chmod(0o664)
    assert len(told(start(path, line()))) == 1
    assert path.stat().st_mode & 0o022 == 0
    assert told(start(path, line())) == []


def test_linked_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(f"{OTHER}\n", encoding="utf-8")
    (tmp_path / "authorized_keys").symlink_to("elsewhere")
    told(start(tmp_path / "authorized_keys", line()))
    assert (tmp_path / "elsewhere").read_text(encoding="utf-8") == f"{OTHER}\n{line()}\n"


def test_invalid_key(tmp_path: Path) -> None:
    run = start(tmp_path / "authorized_keys", line(key="AAAA"))
    _, stderr = run.communicate()
    assert run.returncode == 1
    assert stderr.splitlines()[-1].endswith("this is no line of such a file: " + line(key="AAAA"))
    assert list(tmp_path.iterdir()) == []


def test_concurrent_runs(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"{OTHER}\n", encoding="utf-8")
    keys = {f"standby{number}": f"{KEY[:-1]}{letter}" for number, letter in enumerate("EIMQUYcgkosw")}
    runs = [start(path, line(standby, key), standby) for standby, key in keys.items()]
    assert [len(told(run)) for run in runs] == [1] * len(keys)
    lines = {line(standby, key) for standby, key in keys.items()}
    assert set(path.read_text(encoding="utf-8").splitlines()) == {OTHER, *lines}
