"""Start processes as the right user.

If the tests run as root, PostgreSQL and the fetcher run as postgres. Otherwise all runs
as one user.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

IS_ROOT = os.geteuid() == 0
ME = pwd.getpwuid(os.geteuid()).pw_name
POSTGRES = "postgres" if IS_ROOT else ME
BECOME: dict[str, Any] = {"user": POSTGRES, "group": POSTGRES, "extra_groups": []} if IS_ROOT else {}
# Use the system's Python: postgres may not be able to reach that of this virtual
# environment, which can lie in root's home.
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
VENV = Path(sys.executable).parent


def give(path: Path) -> Path:
    """Make postgres the owner of a file, or of a folder and its content."""
    if IS_ROOT:
        for each in [path, *path.rglob("*")]:
            shutil.chown(each, POSTGRES, POSTGRES)
    return path


def give_folder(path: Path) -> Path:
    """Make a folder that postgres owns and every user can read."""
    path.mkdir(mode=0o755)
    return give(path)


def environment_of(home: Path) -> dict[str, str]:
    """Return the small environment that the tests start processes in."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(home)}


def start(
    command: Sequence[str | Path], cwd: Path, as_postgres: bool = True, **options: Any
) -> "subprocess.Popen[str]":
    """Start a process in a session of its own.

    A test can then signal the group, as PostgreSQL's postmaster does.
    """
    options.setdefault("env", environment_of(cwd))
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    become = BECOME if as_postgres else {}
    return subprocess.Popen(
        command, cwd=cwd, text=True, stdin=subprocess.DEVNULL, start_new_session=True, **become, **options
    )


def run(command: Sequence[str | Path], cwd: Path, as_postgres: bool = True) -> str:
    """Run a command that must succeed, and return its output."""
    process = start(command, cwd, as_postgres, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, f"{' '.join(map(str, command))} ended with {process.returncode}:\n{output}"
    return output


# Choose ports below those that the kernel gives to connections. Each process that runs
# tests begins far from the others.
_ports = iter(range(10000 + os.getpid() * 97 % 210 * 100, 32000))


def free_port() -> int:
    """Return a port of loopback that is free, and that no later call returns."""
    for port in _ports:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30, step: float = 0.2) -> None:
    """Wait until a condition holds, and fail after `seconds`.

    what: the event, for the message. step: seconds between two looks.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(step)


def processes(mentioning: Iterable[str | Path]) -> list[str]:
    """Return the command lines of all processes that contain each of these words."""
    found = []
    words = [str(word) for word in mentioning]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
        if line and all(word in line for word in words):
            found.append(line)
    return found
