"""Test roles/standby/files/authorize.py, which writes a standby's key line."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.role_templar import ROLE, load_script

SCRIPT = (ROLE / "files/authorize.py").read_text(encoding="utf-8")
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
OTHER = f"ssh-ed25519 {KEY[:-1]}B postgres@angus"


GATE = "/usr/local/bin/barman-wal-gate"


def line(standby: str = "chris", key: str = KEY, moment: str = "") -> str:
    return f'restrict,from="10.0.0.3",command="{GATE} angus" ssh-ed25519 {key} walbasin:{standby}:angus{moment}'


def start(
    path: Path, wanted: str, standby: str = "chris", check: bool = False, moment: str = "", more: Tuple[str, ...] = ()
) -> "subprocess.Popen[str]":
    comment = f"walbasin:{standby}:angus{moment}"
    command = [sys.executable, "-IS", "-c", SCRIPT, str(path), comment, str(check), *more]
    run = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
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
    assert stderr.splitlines()[-1].endswith("this is no line of such a file: " + repr(line(key="AAAA")))
    assert list(tmp_path.iterdir()) == []


PUBLIC = f"ssh-ed25519 {KEY} walbasin:chris:angus"


def forced(command: str, options: str = "restrict") -> str:
    return f'{options},command="{command}" {PUBLIC}'


@pytest.mark.parametrize(
    "hostile",
    [
        # A standby that says where it comes from.
        line().replace("10.0.0.3", '*",port-forwarding,pty,permitopen="127.0.0.1:5432'),
        line().replace("10.0.0.3", f'10.0.0.9"\nssh-ed25519 {KEY[:-1]}E attacker\n#'),
        line().replace("10.0.0.3", "10.0.0.9\r"),
        line().replace("10.0.0.3", "10.0.0.9 "),
        line().replace("10.0.0.3", '10.0.0.9\\"'),
        line().replace("10.0.0.3", ""),
        # One that says which key is its own.
        line().replace("ssh-ed25519", f"ssh-ed25519 {KEY[:-1]}E x\nssh-ed25519"),
        line().replace("ssh-ed25519", f"ssh-ed25519 {KEY[:-1]}E x\x0bssh-ed25519"),
        line().replace("ssh-ed25519", f"ssh-ed25519 {KEY[:-1]}E x\u2028ssh-ed25519"),
        line().replace("restrict", "restrict,port-forwarding"),
        line() + f"\n{OTHER}",
        f"{line()}\n",
        f"\n{line()}",
        # Without the gate, or with more than the gate.
        PUBLIC,
        f"restrict {PUBLIC}",
        forced("sh"),
        forced(f"{GATE} angus; sh"),
        forced(f"{GATE} angus && sh"),
        forced(f"{GATE} $(id)"),
        forced(f"{GATE} angus | sh"),
        forced(f"{GATE} angus >file"),
        forced("sh -c barman-wal-gate"),
        forced("not-barman-wal-gate angus"),
        forced(f"echo $SSH_CONNECTION >&2; {GATE} angus"),
        forced(f"{GATE} angus", options="pty"),
        forced(f"{GATE} angus", options=f'restrict,command="{GATE} berta"'),
        forced(f"{GATE} angus", options='restrict,environment="LD_PRELOAD=/tmp/x"'),
        # Found again by nobody, or the line of another.
        line("chris2"),
        line(moment="+open"),
    ],
)
def test_hostile_line(tmp_path: Path, hostile: str) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"{OTHER}\n{line(key=KEY[:-1] + 'I')}\n", encoding="utf-8")
    before = path.read_bytes()
    run = start(path, hostile)
    _, stderr = run.communicate()
    assert run.returncode == 1
    assert re.fullmatch(r"\S+ was left as it is: this is .*", stderr.strip()), stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "shape",
    [
        forced(f"{GATE} angus"),
        forced(f"{GATE} --key SHA256:{'a/+' * 14}b angus berta"),
        forced(
            f"{GATE} --config '/etc/bar man.conf' angus", options='restrict,from="10.0.0.0/24,fd00::3,*.example.com"'
        ),
        forced("barman-wal-gate angus", options='restrict,from="fe80::1%eth0"'),
    ],
)
def test_known_shapes(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "authorized_keys"
    assert told(start(path, shape)) == [f"+ {shape}"]


@pytest.mark.parametrize("odd", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_odd_characters_of_others(tmp_path: Path, odd: str) -> None:
    """Make no line of a part of somebody's comment."""
    path = tmp_path / "authorized_keys"
    others = f"{OTHER}{odd}ssh-ed25519 {KEY[:-1]}E attacker\n"
    path.write_bytes(others.encode())
    assert len(told(start(path, line()))) == 1
    assert path.read_bytes() == f"{others}{line()}\n".encode()


OLDER = f'restrict,command="echo $SSH_CONNECTION >&2; {GATE} angus" {PUBLIC}'


@pytest.mark.parametrize("former", [line(), OLDER, line(moment="+open"), f"{line()}\n{line(moment='+open')}"])
@pytest.mark.parametrize("wanted", ["", forced(f"{GATE} --key SHA256:x angus")])
def test_lines_of_older_versions(tmp_path: Path, former: str, wanted: str) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"{OTHER}\n{former}\n", encoding="utf-8")
    told(start(path, wanted))
    assert path.read_text(encoding="utf-8").splitlines() == [OTHER, *([wanted] if wanted else [])]


def test_line_for_a_moment(tmp_path: Path) -> None:
    """Write it before the others of its key, so that sshd takes it, and keep them."""
    path = tmp_path / "authorized_keys"
    former = [OTHER, f"ssh-ed25519 {KEY} postgres@chris", line()]
    path.write_text("\n".join(former) + "\n", encoding="utf-8")
    moment = line(moment="+open")
    assert told(start(path, moment, moment="+open")) == [f"+ {moment}"]
    assert path.read_text(encoding="utf-8").splitlines() == [OTHER, moment, *former[1:]]
    assert told(start(path, moment, moment="+open")) == []
    assert told(start(path, "", moment="+open")) == [f"- {moment}"]
    assert path.read_text(encoding="utf-8").splitlines() == former


@pytest.mark.parametrize("comment", ["walbasin:chris2:angus", "walbasin:chris:berta", "walbasin:chris2:angus+next"])
def test_key_of_another_standby(tmp_path: Path, comment: str) -> None:
    """Take no line from a standby because another says that it has its key."""
    path = tmp_path / "authorized_keys"
    others = line().replace("walbasin:chris:angus", comment) + "\n"
    path.write_text(others, encoding="utf-8")
    run = start(path, line())
    _, stderr = run.communicate()
    assert (run.returncode, f"the key is that of {comment}." in stderr) == (1, True)
    assert path.read_text(encoding="utf-8") == others


def test_key_of_own_rotation(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"{line(key=KEY[:-1] + 'E')}\n{line(moment='+next')}\n", encoding="utf-8")
    told(start(path, line()))
    assert path.read_text(encoding="utf-8") == f"{line()}\n"


def test_gate_taken_away(tmp_path: Path) -> None:
    """Write no line while another run removes the gate, or after it has."""
    path, lib, leftover = tmp_path / "authorized_keys", tmp_path / "lib", tmp_path / "leftover"
    lib.mkdir()
    leftover.touch()
    run = start(path, line(), more=(str(lib), str(leftover)))
    _, stderr = run.communicate()
    assert run.returncode == 1
    assert "No such file or directory" in stderr
    assert not path.exists()
    (lib / "barman-wal-gate").touch()
    told(start(path, line(), more=(str(lib), str(leftover))))
    assert not leftover.exists()


def test_lock_of_a_stranger(tmp_path: Path) -> None:
    """End the wait for a lock that somebody holds for ever."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        script = SCRIPT.replace("LONGEST_WAIT = 60", "LONGEST_WAIT = 1")
        command = [
            sys.executable,
            "-IS",
            "-c",
            script,
            str(tmp_path / "authorized_keys"),
            "walbasin:chris:angus",
            "False",
        ]
        ran = subprocess.run(command, input=line(), text=True, stderr=subprocess.PIPE, timeout=30, check=False)
    finally:
        os.close(descriptor)
    assert ran.returncode == 1
    assert "another process holds the lock" in ran.stderr


def test_concurrent_runs(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"{OTHER}\n", encoding="utf-8")
    keys = {f"standby{number}": f"{KEY[:-1]}{letter}" for number, letter in enumerate("EIMQUYcgkosw")}
    runs = [start(path, line(standby, key), standby) for standby, key in keys.items()]
    assert [len(told(run)) for run in runs] == [1] * len(keys)
    lines = {line(standby, key) for standby, key in keys.items()}
    assert set(path.read_text(encoding="utf-8").splitlines()) == {OTHER, *lines}


PARTS = [
    "restrict",
    ",",
    'from="',
    '"',
    "command=",
    GATE,
    " angus",
    " --",
    "\n",
    "\r",
    "\\",
    "ssh-ed25519",
    KEY,
    "walbasin:",
]
COMMENT = "walbasin:chris:angus"


@given(parts=st.lists(st.sampled_from([*PARTS, line(), COMMENT, " "]) | st.text(max_size=3), max_size=12))
def test_any_line(parts: List[str]) -> None:
    """Take nothing but one line for one key, which runs the gate."""
    text = "".join(parts)
    authorize = load_script("authorize")
    vars(authorize)["is_key"] = lambda _line: True
    if authorize.error_of(text, COMMENT) or not text.strip():
        return
    (taken,) = authorize.lines_of(text)
    assert taken.isprintable()
    options, command, key = re.split(r'command="([^"]*)" ', taken)
    assert options in {"restrict,", 'restrict,from="10.0.0.3",'} or options.startswith('restrict,from="')
    assert command.split(" ")[0].rpartition("/")[2] == "barman-wal-gate"
    assert len(key.split(" ")) == 3
    assert key.endswith(f" {COMMENT}")
