"""Run another program for a client, and leave nothing of it behind."""

import contextlib
import os
import select
import signal
import time
from typing import Callable, Dict, List

# Seconds without a byte from a program. A fetcher waits as long for what Barman has to
# decompress or decrypt first.
SILENCE_LIMIT = 600
# Seconds between two signs to the client that the program is still at work.
SIGN_INTERVAL = 0.25
# Bytes that are read at a time.
CHUNK = 256 * 1024
# What a client can set through sshd (AcceptEnv) reaches no program that we start.
VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ")


class ProgramFailed(Exception):
    """Report that a program did not do its work; the text says why."""


def relay(
    words: List[str], on_data: Callable[[bytes], None], *, stdin: int, stderr: int, client: int, path: str = ""
) -> int:
    """Run a program, and return its exit status.

    128 and more is a signal, as in a shell.
    client: descriptor of the client, whose end is the end of the program.
    on_data: gets each piece of its stdout, and an empty one every SIGN_INTERVAL seconds
    while there is none.
    path: folders that come before the PATH of this process, or empty.
    Raises ProgramFailed, OSError when the client is gone.
    """
    source, stdout = os.pipe()
    try:
        try:
            process = start(words, stdin, stdout, stderr, path)
        except OSError as error:
            looked = f"looked in {os.environ.get('PATH', '')}"
            raise ProgramFailed(f"cannot run {words[0]}: {error.strerror} ({looked})") from error
        finally:
            os.close(stdout)
        try:
            _read(source, on_data, client, words[0])
            wait(process, client, words[0])
        finally:
            status = end(process)
    finally:
        os.close(source)
    return status


def _read(source: int, on_data: Callable[[bytes], None], client: int, program: str) -> None:
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(client, 0)  # its end is told all the same
    limit = time.monotonic() + SILENCE_LIMIT
    while time.monotonic() < limit:
        events = dict(poll.poll(round(SIGN_INTERVAL * 1000)))
        if client in events:
            raise BrokenPipeError
        data = os.read(source, CHUNK) if events else b""
        if events and not data:
            return
        on_data(data)
        if data:
            limit = time.monotonic() + SILENCE_LIMIT
    raise ProgramFailed(f"{program} has sent nothing for {SILENCE_LIMIT} seconds")


def wait(process: int, client: int, program: str) -> None:
    """Wait for the end of a program that prints nothing any more. `end` has to follow.

    Raises as `relay`.
    """
    poll = select.poll()
    poll.register(client, 0)
    step, limit = 1, time.monotonic() + SILENCE_LIMIT
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if poll.poll(step):
            raise BrokenPipeError
        if time.monotonic() > limit:
            raise ProgramFailed(f"{program} has ended its output, and does not end itself")
        step = min(2 * step, 250)


def environment(path: str = "") -> Dict[str, str]:
    """Return the environment that a program gets.

    path: folders that come before the PATH of this process, or empty.
    """
    kept = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if path:
        kept["PATH"] = os.pathsep.join(filter(None, [path, kept.get("PATH")]))
    return {**kept, "LC_ALL": "C.UTF-8"}


def start(words: List[str], stdin: int, stdout: int, stderr: int, path: str = "") -> int:
    """Start a program, and return its process id. Raises OSError.

    path: see environment.
    """
    return os.posix_spawnp(
        words[0],
        words,
        environment(path),
        file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in enumerate((stdin, stdout, stderr))],
        # A group of its own: whatever it has started ends with it.
        setpgroup=0,
        setsigdef=[signal.SIGPIPE],
    )


def end(process: int) -> int:
    """End what is left of a program that was not waited for.

    Returns its exit status: 128 and more is a signal, as in a shell.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
