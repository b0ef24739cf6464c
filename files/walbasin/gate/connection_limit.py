"""Limit how many connections a key has at a time on the Barman host.

Each connection holds a slot: a record lock on one byte of an empty file in the home of
Barman's user. A lock ends with its process, however that ends (fcntl(2)).
"""

import fcntl
import os
import zlib

# Connections of one key that serve a fetcher, and as many for single commands.
MOST = 32
# The file whose bytes are locked, one for each slot.
FILE = "~/.barman-wal-gate"


def acquire_slot(key: str) -> bool:
    """Hold a slot until this process ends. Return False when all are taken.

    key: what tells one key from another. Where the file cannot be written there are
    slots for all: a full disk must not keep WAL back.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(os.path.expanduser(FILE), flags, 0o600)
    except OSError:
        return True
    first = zlib.crc32(key.encode("utf-8", "surrogateescape")) * MOST
    return any(_lock(descriptor, first + slot) for slot in range(MOST))


def _lock(descriptor: int, byte: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        # A filesystem that knows no locks has slots for all.
        return not isinstance(error, (BlockingIOError, PermissionError))
    return True
