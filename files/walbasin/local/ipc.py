"""A request to the background process. PostgreSQL waits for this, so it imports nothing that is not needed."""

import os
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as Socket  # the one of socket.py has a slow start

from walbasin import VERSION
from walbasin.fetcher import log
from walbasin.local import handover

SOCKET = "basin.sock"
BELL = "bell"
LONGEST = 65536
# Options with which a file that is not in the archive needs another look.
MORE_THAN_ABSENT = {"-P", "--partial", "--mode"}
# Seconds. It speaks once a second while it is alive.
SILENCE_LIMIT = 15


def first(spool: str, words: "list[str]") -> "tuple[int | None, tuple[str, ...] | None]":
    """The exit status of a call with these arguments, when the background process's answer is all there is to it.

    Otherwise None, and that answer. spool: the folder of a spool on pg_wal's filesystem.
    """
    server, name, destination = words[-3:]
    try:
        folder = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # removed since the shell has found it
        return None, None
    try:
        answer = request(folder, name, fingerprint(words))
        if answer is None:
            return None, None
        outcome, mode, detail, _ = answer
        if outcome == "delivered" and not detail:
            handover.hand_over(name, destination, folder)
            ring(folder, name)
            return 0, None
        if outcome == "absent" and mode == "standby" and not MORE_THAN_ABSENT & set(words):
            log.say_absent(name, server, log.ASKS_AGAIN)
            return 1, None
        return None, answer
    except OSError:  # the long way will say what is wrong
        return None, None
    finally:
        os.close(folder)


def fingerprint(words: "list[str]") -> str:
    """What calls must have in common to be served by one background process: version and options."""
    return ascii([VERSION, *words[:-2]])


def path(folder: int, name: str) -> str:
    """A file in an open folder. The path of a socket has 107 bytes at most."""
    return f"/proc/self/fd/{folder}/{name}"


def request(folder: int, name: str, fingerprint: str) -> "tuple[str, ...] | None":
    """What background.Background answers: outcome and mode (policy's), detail, and "1" if Barman was not reached.

    None when there is no background process, or when it ended without an answer. folder: an open spool.
    """
    connection = Socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.settimeout(SILENCE_LIMIT)
        connection.connect(path(folder, SOCKET))
        connection.sendall(f"{name}\t{fingerprint}\n".encode())
        return _answer(connection)
    except OSError:
        return None
    finally:
        connection.close()


def is_answered(folder: int) -> bool:
    """There is a background process that would answer. folder: an open spool."""
    connection = Socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.settimeout(SILENCE_LIMIT)
        connection.connect(path(folder, SOCKET))
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _answer(connection: Socket) -> "tuple[str, ...] | None":
    text = b""
    while not text.endswith(b"\n"):
        data = connection.recv(LONGEST)
        if not data:
            return None
        text = (text + data).lstrip(b"\n")
    return tuple(text.decode().rstrip("\n").split("\t"))


def ring(folder: int, name: str) -> None:
    """Tell the background process, if there is one, that a segment was taken."""
    try:
        bell = os.open(BELL, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return
    try:
        os.write(bell, name.encode() + b"\n")
    except OSError:
        return
    finally:
        os.close(bell)
