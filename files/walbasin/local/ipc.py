"""Talk to the prefetch process, through the socket and the FIFO in the spool.

PostgreSQL waits for this, so it imports nothing that is not needed (typing is slow).
"""

import os
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as Socket  # the one of socket.py has a slow start

from walbasin import VERSION

# Names in the spool: where the prefetch process listens, and where it is told that a
# segment was taken without asking.
SOCKET = "prefetch.sock"
TAKEN = "taken"
# Bytes of a request or a reply.
LONGEST = 65536
# Seconds. A living prefetch process sends a keepalive once a second.
SILENCE_LIMIT = 15


class Reply:
    """Hold what the prefetch process answers to a request.

    outcome, mode: see policy. detail: the cause in words. is_outage: Barman's host
    could not be reached.
    """

    def __init__(self, outcome: str, mode: str, detail: str = "", is_outage: bool = False) -> None:
        self.outcome = outcome
        self.mode = mode
        self.detail = detail
        self.is_outage = is_outage

    def to_line(self) -> bytes:
        """Return the reply as one line; detail must have no tab and no line break."""
        fields = (self.outcome, self.mode, self.detail, "1" if self.is_outage else "")
        return "\t".join(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Reply":
        """Return what to_line was made of."""
        outcome, mode, detail, is_outage = line.decode().rstrip("\n").split("\t")
        return cls(outcome, mode, detail, bool(is_outage))


def fingerprint(words: "list[str]", name: str, destination: str) -> str:
    """Return what calls must have in common to share one prefetch process.

    That is the version, and the command line without what changes from call to call.
    """
    return ascii([VERSION, *(word for word in words if word not in (name, destination))])


def path_in(folder: int, name: str) -> str:
    """Return a short path in an open folder: a socket's has 107 bytes at most."""
    return f"/proc/self/fd/{folder}/{name}"


def request_file(folder: int, name: str, fingerprint: str) -> "Reply | None":
    """Ask the prefetch process for a file, and wait for its reply.

    Returns None when there is no prefetch process, or when it ended without a reply.
    folder: an open spool.
    """
    connection = _connect(folder)
    if connection is None:
        return None
    try:
        connection.sendall(f"{name}\t{fingerprint}\n".encode())
        return _read_reply(connection)
    except OSError:
        return None
    finally:
        connection.close()


def is_listening(folder: int) -> bool:
    """Return whether a prefetch process would reply. folder: an open spool."""
    connection = _connect(folder)
    if connection is None:
        return False
    connection.close()
    return True


def _connect(folder: int) -> "Socket | None":
    connection = Socket(AF_UNIX, SOCK_STREAM)
    try:
        connection.settimeout(SILENCE_LIMIT)
        connection.connect(path_in(folder, SOCKET))
    except OSError:
        connection.close()
        return None
    return connection


def _read_reply(connection: Socket) -> "Reply | None":
    text = b""
    while not text.endswith(b"\n"):
        data = connection.recv(LONGEST)
        if not data:
            return None
        text = (text + data).lstrip(b"\n")  # keepalives are empty lines
    return Reply.from_line(text)


def notify_taken(folder: int, name: str) -> None:
    """Tell the prefetch process, if there is one, that a segment was taken."""
    try:
        fifo = os.open(TAKEN, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return
    try:
        os.write(fifo, name.encode() + b"\n")
    except OSError:
        return
    finally:
        os.close(fifo)
