"""Calls a restore_command as PostgreSQL's startup process does, and adds up what that costs. Runs alone, in a PGDATA.

It reads tasks from stdin and answers on stdout, one JSON object a line:
{"command": .., "names": [..], "replay": seconds} -> {"seconds": [..], "statuses": [..]}, one for each name;
{} -> {"cpu": seconds}, spent by all that was started since the last time, when all of that has ended.
What is delivered is kept in the folder `delivered`.
"""

import ctypes
import json
import os
import resource
import sys
import time
from typing import Any, Dict, List

PR_SET_CHILD_SUBREAPER = 36
DESTINATION = "pg_wal/RECOVERYXLOG"


def call(command: str, names: List[str], replay: float) -> Dict[str, Any]:
    seconds: List[float] = []
    statuses: List[int] = []
    for name in names:
        words = ["sh", "-c", command.replace("%f", name).replace("%p", DESTINATION)]
        started = time.monotonic()
        process = os.posix_spawn("/bin/sh", words, os.environ)
        _, status = os.waitpid(process, 0)
        seconds.append(time.monotonic() - started)
        statuses.append(os.waitstatus_to_exitcode(status))
        if statuses[-1] == 0:
            os.rename(DESTINATION, f"delivered/{name}")
        time.sleep(replay)
    return {"seconds": seconds, "statuses": statuses}


def settle(before: float) -> Dict[str, Any]:
    """Recovery is over, so what the prefetch process does ends; it is our child by now."""
    os.unlink("standby.signal")
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    with open("standby.signal", "w"):
        pass
    return {"cpu": cpu() - before}


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before = cpu()
    for line in sys.stdin:
        task = json.loads(line)
        answer = call(**task) if task else settle(before)
        before = before if task else cpu()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
