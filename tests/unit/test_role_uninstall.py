"""Test roles/standby/files/uninstall.py, which takes a program from a host."""

import fcntl
import getpass
import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from tests.support.role_templar import ROLE

SCRIPT = (ROLE / "files/uninstall.py").read_text(encoding="utf-8")
GATE, FETCHER = "barman-wal-gate", "barman-wal-restore"
LINE = f'restrict,command="/usr/local/bin/{GATE} angus" ssh-ed25519 AAAA walbasin:chris2:angus\n'


def start(folder: Path, program: str = GATE, check: bool = False, script: str = SCRIPT) -> "subprocess.Popen[str]":
    place = folder / ("authorized_keys" if program == GATE else "etc")
    words = [folder / "lib", folder / "bin", program, place, getpass.getuser(), check, folder / "slots"]
    command = [sys.executable, "-IS", "-c", script, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(run: "subprocess.Popen[str]") -> List[str]:
    stdout, stderr = run.communicate()
    assert run.returncode == 0, stderr
    return stdout.splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return a host with both programs."""
    for name in ("bin", "lib/walbasin", "etc"):
        (tmp_path / name).mkdir(parents=True)
    for program in (GATE, FETCHER):
        (tmp_path / "lib" / program).touch()
        (tmp_path / "bin" / program).symlink_to(tmp_path / "lib" / program)
    (tmp_path / "slots").touch()
    return tmp_path


def test_one_program_of_two(host: Path) -> None:
    assert told(start(host)) == [str(host / "lib" / GATE)]
    assert os.listdir(host / "bin") == [FETCHER]
    assert sorted(os.listdir(host / "lib")) == [FETCHER, "walbasin"]
    assert not (host / "slots").exists()
    assert told(start(host)) == []


def test_last_program(host: Path) -> None:
    told(start(host))
    (host / "bin" / f"{FETCHER}.before-walbasin").write_text("Barman's own", encoding="utf-8")
    told(start(host, FETCHER))
    assert (host / "bin" / FETCHER).read_text(encoding="utf-8") == "Barman's own"
    assert not (host / "lib").exists()
    assert told(start(host, FETCHER)) == []


def test_check_mode(host: Path) -> None:
    assert told(start(host, check=True)) == [str(host / "lib" / GATE)]
    assert (host / "bin" / GATE).exists()
    assert (host / "slots").exists()


@pytest.mark.parametrize("program", [GATE, FETCHER])
def test_program_that_is_called(host: Path, program: str) -> None:
    (host / "authorized_keys").write_text(LINE, encoding="utf-8")
    (host / "etc/berta").mkdir()
    assert told(start(host, program)) == []
    assert (host / "bin" / program).exists()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_callers_not_known(host: Path, kind: str) -> None:
    """Remove nothing, and do not wait, where it cannot be read what calls the gate."""
    if kind == "pipe":
        os.mkfifo(host / "authorized_keys")
    else:
        (host / "authorized_keys/x").mkdir(parents=True)
    run = start(host)
    _, stderr = run.communicate(timeout=60)
    assert (host / "bin" / GATE).exists()
    if kind == "pipe":
        assert (run.returncode, "not a regular file" in stderr) == (1, True)


def test_several_at_once(host: Path) -> None:
    """Remove standbys that share a Barman host at the same time."""
    written = [told(run) for run in [start(host) for _ in range(8)]]
    assert sorted(written) == [[]] * 7 + [[str(host / "lib" / GATE)]]


def test_line_written_meanwhile(host: Path) -> None:
    """Ask what calls the gate under the lock: another run may have written its line."""
    lock = os.open(host / "lib", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    run = start(host)
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(timeout=2)
    (host / "authorized_keys").write_text(LINE, encoding="utf-8")
    os.close(lock)
    assert told(run) == []
    assert (host / "bin" / GATE).exists()


def test_lock_of_a_stranger(host: Path) -> None:
    lock = os.open(host / "lib", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    run = start(host, script=SCRIPT.replace("LONGEST_WAIT = 60", "LONGEST_WAIT = 1"))
    _, stderr = run.communicate(timeout=60)
    os.close(lock)
    assert (run.returncode, "another process holds the lock" in stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_link_of_barmans_user(host: Path) -> None:
    """Read, as root too, with the rights of the user whose file it is."""
    host.chmod(0o755)
    for path in list(host.parents)[:3]:
        path.chmod(path.stat().st_mode | 0o011)
    (host / "secret").write_text(LINE, encoding="utf-8")
    (host / "secret").chmod(0o600)
    (host / "authorized_keys").symlink_to(host / "secret")
    words = [host / "lib", host / "bin", GATE, host / "authorized_keys", "nobody", "False"]
    run = subprocess.run(
        [sys.executable, "-IS", "-c", SCRIPT, *map(str, words)], text=True, stderr=subprocess.PIPE, check=False
    )
    assert (run.returncode, "Permission denied" in run.stderr) == (1, True)
    assert (host / "bin" / GATE).exists()
