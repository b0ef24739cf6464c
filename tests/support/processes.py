"""Who does what on this machine: PostgreSQL and the fetcher run as postgres where we are root, else all is one user."""

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
# postgres may not be able to reach the interpreter of this virtual environment, which can lie in root's home.
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
VENV = Path(sys.executable).parent


def give(path: Path) -> Path:
    """Make postgres the owner of a file, or of a folder with all that is in it."""
    if IS_ROOT:
        for each in [path, *path.rglob("*")]:
            shutil.chown(each, POSTGRES, POSTGRES)
    return path


def give_folder(path: Path) -> Path:
    """Make a folder that postgres owns and everybody can read."""
    path.mkdir(mode=0o755)
    return give(path)


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of what the tests start: a small one, as a server's is."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(home)}


def start(
    command: Sequence[str | Path], cwd: Path, as_postgres: bool = True, **options: Any
) -> "subprocess.Popen[str]":
    """A process in a group of its own, so that it can be signalled as PostgreSQL's postmaster does it."""
    options.setdefault("env", environment_of(cwd))
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    become = BECOME if as_postgres else {}
    return subprocess.Popen(
        command, cwd=cwd, text=True, stdin=subprocess.DEVNULL, start_new_session=True, **become, **options
    )


def run(command: Sequence[str | Path], cwd: Path, as_postgres: bool = True) -> str:
    """The output of a command that must succeed."""
    process = start(command, cwd, as_postgres, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, f"{' '.join(map(str, command))} ended with {process.returncode}:\n{output}"
    return output


# Below those that the kernel gives to connections, and each process that runs tests begins far from the others.
_ports = iter(range(10000 + os.getpid() * 97 % 210 * 100, 32000))


def free_port() -> int:
    """A port of loopback that nobody has, and nobody will be given."""
    for port in _ports:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30, step: float = 0.2) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(step)


def processes(mentioning: Iterable[str | Path]) -> list[str]:
    """The command lines of all living processes that mention every one of these words."""
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
