"""Run a `barman` that does what a real one cannot be made to do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from walbasin.gate import barman_command, child
from walbasin.wal.getwal import Request

from tests.support.processes import wait_until

REQUEST = Request("angus", "000000010000000000000001")
Script = Callable[[str], None]


@pytest.fixture
def barman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return a function that makes a shell script the `barman` of the PATH."""

    def write(text: str) -> None:
        (tmp_path / "barman").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "barman").chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return write


def run(on_data: Callable[[bytes], None] = lambda _: None) -> int:
    return barman_command.run(REQUEST, on_data, sys.__stdout__.fileno(), 2)  # type: ignore[union-attr]


def ended(pid_file: Path) -> bool:
    return not Path(f"/proc/{pid_file.read_text().strip()}/stat").exists()


def test_output_and_status(barman: Script) -> None:
    barman('echo "$@"; echo again; exit 7')
    pieces: list[bytes] = []
    assert run(pieces.append) == 7
    assert b"".join(pieces) == b"get-wal angus 000000010000000000000001\nagain\n"


def test_signal(barman: Script) -> None:
    barman("kill -9 $$")
    assert run() == 137


def test_environment(barman: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ATTACK", "PYTHONPATH", "BARMAN_X", "GCONV_PATH"):
        monkeypatch.setenv(name, "/tmp/evil")
    barman("env")
    pieces: list[bytes] = []
    run(pieces.append)
    assert b"evil" not in b"".join(pieces)
    assert b"LC_ALL=C.UTF-8\n" in b"".join(pieces)


def test_silence(barman: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """End Barman, and what it has started."""
    monkeypatch.setattr(child, "SILENCE_LIMIT", 1)
    monkeypatch.setattr(child, "SIGN_INTERVAL", 0.2)
    barman(f"echo begun; sleep 60 & echo $! >{tmp_path}/pid; wait")
    started = time.monotonic()
    pieces: list[bytes] = []
    with pytest.raises(child.ProgramFailed, match="has sent nothing for 1 seconds"):
        run(pieces.append)
    assert time.monotonic() - started < 20
    assert pieces[0] == b"begun\n"
    assert set(pieces[1:]) == {b""}, "the client is told that Barman is at work"
    wait_until(lambda: ended(tmp_path / "pid"), "the end of what Barman started")


def test_lost_client(barman: Script, tmp_path: Path) -> None:
    """End Barman when nobody is there any more who could read what it sends."""
    barman(f"echo $$ >{tmp_path}/pid; sleep 60")
    ours, theirs = os.pipe()
    process = subprocess.Popen(["sh", "-c", f"while [ ! -s {tmp_path}/pid ]; do sleep 0.05; done"], stdin=ours)
    os.close(ours)
    with pytest.raises(BrokenPipeError):
        barman_command.run(REQUEST, lambda _: None, theirs, 2)
    os.close(theirs)
    process.wait(timeout=10)
    assert ended(tmp_path / "pid")


def test_failed_client(barman: Script, tmp_path: Path) -> None:
    """End Barman when what it has sent cannot be written."""
    barman(f"echo $$ >{tmp_path}/pid; echo begun; exec sleep 60")

    def fail(_: bytes) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        run(fail)
    assert ended(tmp_path / "pid")
