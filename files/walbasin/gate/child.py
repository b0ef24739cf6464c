"""Run another program for a client, and leave nothing of it behind."""

import contextlib
import os
import signal
from typing import Dict, List

# What a client can set through sshd (AcceptEnv) reaches no program that we start.
VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ")


def environment() -> Dict[str, str]:
    """Return the environment that a program gets."""
    kept = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8"}


def start(words: List[str], stdin: int, stdout: int, stderr: int) -> int:
    """Start a program, and return its process id. Raises OSError."""
    return os.posix_spawnp(
        words[0],
        words,
        environment(),
        file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in enumerate((stdin, stdout, stderr))],
        # A group of its own: whatever it has started ends with it.
        setpgroup=0,
        setsigdef=[signal.SIGPIPE],
    )


def wait(process: int) -> None:
    """Wait for the end of a program. `end` has to follow."""
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)


def end(process: int) -> int:
    """End what is left of a program that was not waited for.

    Returns its exit status: 128 and more is a signal, as in a shell.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
