"""How many connections a key may have at a time: its places on the Barman host, each held by a process.

They are record locks on an empty file in the home of Barman's user, a byte a place. A lock ends with its process,
however that ends, and goes over to what the process executes (fcntl(2)).
"""

import fcntl
import os
import zlib

MOST = 32
FILE = "~/.barman-wal-gate"


def take(key: str) -> bool:
    """Take a place until this process ends. False when they are all taken.

    key: what tells one key from another. Without a file there are places for all: a full disk must not keep WAL back.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(os.path.expanduser(FILE), flags, 0o600)
    except OSError:
        return True
    os.set_inheritable(descriptor, True)
    first = zlib.crc32(key.encode("utf-8", "surrogateescape")) * MOST
    return any(_lock(descriptor, first + place) for place in range(MOST))


def _lock(descriptor: int, byte: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        # A filesystem that knows no locks has places for all.
        return not isinstance(error, (BlockingIOError, PermissionError))
    return True
