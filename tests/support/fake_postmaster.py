"""Play a PostgreSQL server that recovers: a postmaster, and its startup process.

Runs alone, in a data directory, as the user of PostgreSQL. Only the startup process
calls restore_command, each time through `sh -c`, as PostgreSQL does. It reads tasks
from stdin and replies on stdout, one JSON object a line:

{"command": .., "names": [..], "replay": seconds}
-> {"seconds": [..], "statuses": [..]}, one for each name. What is delivered goes to the
folder `delivered`.

{} -> {"cpu": seconds, "orphans": number}: of all processes that were started since the
last time, once all of them have ended; how many of them outlived a call.
"""

import contextlib
import ctypes
import json
import os
import resource
import sys
import time
from typing import Any, Dict, List

PR_SET_CHILD_SUBREAPER = 36
DESTINATION = "pg_wal/RECOVERYXLOG"


def be_postmaster() -> None:
    """Start the startup process, and end when it has ended."""
    with open("postmaster.pid", "w") as file:
        file.write(f"{os.getpid()}\n{os.getcwd()}\n{int(time.time())}\n5432\n")
    startup_process = os.fork()
    if startup_process == 0:
        os.setsid()  # as PostgreSQL's processes do
        be_startup_process()
    else:
        os.waitpid(startup_process, 0)
        os.unlink("postmaster.pid")


def be_startup_process() -> None:
    """Carry out tasks until there are no more."""
    # Become the parent of the prefetch process: its CPU is to be counted too.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before = children_cpu()
    for line in sys.stdin:
        task = json.loads(line)
        if task:
            reply = call(**task)
        else:
            reply = settle(before)
            before = children_cpu()
        print(json.dumps(reply), flush=True)


def call(command: str, names: List[str], replay: float) -> Dict[str, Any]:
    """Call restore_command for one name after the other, `replay` seconds apart."""
    seconds: List[float] = []
    statuses: List[int] = []
    for name in names:
        # Remove what a failed call has left, as PostgreSQL does: Barman's own client
        # leaves an empty file.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(DESTINATION)
        words = ["sh", "-c", command.replace("%f", name).replace("%p", DESTINATION)]
        started = time.monotonic()
        process = os.posix_spawn("/bin/sh", words, os.environ)
        _, status = os.waitpid(process, 0)
        seconds.append(time.monotonic() - started)
        statuses.append(os.waitstatus_to_exitcode(status))
        if statuses[-1] == 0 and os.path.exists(DESTINATION):
            os.rename(DESTINATION, f"delivered/{name}")
        time.sleep(replay)
    return {"seconds": seconds, "statuses": statuses}


def settle(before: float) -> Dict[str, Any]:
    """End recovery, and wait for the end of all that calls have left running."""
    os.unlink("standby.signal")
    orphans = 0
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
        orphans += 1
    with open("standby.signal", "w"):
        pass
    return {"cpu": children_cpu() - before, "orphans": orphans}


def children_cpu() -> float:
    """Return the seconds of CPU of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    be_postmaster()
