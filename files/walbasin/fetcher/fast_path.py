"""Answer a call with the prefetch process's reply, when no more is needed.

PostgreSQL waits for this, so it imports nothing that is not needed.
"""

import os

from walbasin.fetcher import log
from walbasin.local import handover, ipc


def run(spool: str, look: bool, operands: "list[str]", words: "list[str]") -> "tuple[int | None, ipc.Reply | None]":
    """Return the exit status of a call, or None and the reply that was not enough.

    spool: the folder of a spool on pg_wal's filesystem. look: whether a file that is
    not in the archive needs another look (-P, --mode). operands: server, name and
    destination. words: the whole command line.
    """
    server, name, destination = operands
    try:
        folder = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # removed since the shell has found it
        return None, None
    try:
        reply = ipc.request_file(folder, name, ipc.fingerprint(words, name, destination))
        if os.environ.get("WALBASIN_DEBUG"):
            from walbasin.local.debug import debug

            debug(f"{name}: the prefetch process replies {reply}")
        if reply is None or name.endswith(".history"):  # that is the timeline guard's
            return None, reply
        if reply.outcome == "delivered" and not reply.detail:
            handover.rename(name, destination, folder)
            ipc.notify_taken(folder, name)
            return 0, None
        if reply.outcome == "absent" and reply.mode == "standby" and not look and not reply.detail:
            log.log_absent(name, server, log.ASKS_AGAIN)
            return 1, None
        return None, reply
    except OSError:  # the long way finds out what is wrong, and says it
        return None, None
    finally:
        os.close(folder)
