"""Limit what a key may use of the Barman host: connections, and cores to compress with.

Each connection holds a slot: a record lock on one byte of an empty file in the home of
Barman's user. A lock ends with its process, however that ends (fcntl(2)). So does
whatever else a process locks there when it closes the file: nobody closes it.
"""

import contextlib
import fcntl
import os
import zlib
from typing import Callable, TypeVar

# Connections of one key that serve a fetcher, and as many for single commands.
MOST = 32
# The file whose bytes are locked, one for each slot.
FILE = "~/.barman-wal-gate"
# Behind the slots of all keys: a byte for the core of each key.
CORES = MOST << 32

Result = TypeVar("Result")


def acquire_slot(key: str) -> bool:
    """Hold a slot until this process ends. Return False when all are taken.

    key: what tells one key from another. Where the file cannot be written there are
    slots for all: a full disk must not keep WAL back.
    """
    descriptor = _open()
    first = _hash(key) * MOST
    return descriptor < 0 or any(_lock(descriptor, first + slot) for slot in range(MOST))


class Core:
    """Share one core among all connections of a key."""

    def __init__(self, key: str) -> None:
        """key: see acquire_slot."""
        self._descriptor = _open()
        self._byte = CORES + _hash(key)

    def use(self, work: Callable[[], Result]) -> Result:
        """Return what `work` does, while no other connection of the key is at it."""
        if self._descriptor < 0:
            return work()
        with contextlib.suppress(OSError):  # a filesystem that knows no locks
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, self._byte)
        try:
            return work()
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._byte)


def _open() -> int:
    """Return a descriptor of the file, or a negative number."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(os.path.expanduser(FILE), flags, 0o600)
    except OSError:
        return -1


def _hash(key: str) -> int:
    return zlib.crc32(key.encode("utf-8", "surrogateescape"))


def _lock(descriptor: int, byte: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        # A filesystem that knows no locks has slots for all.
        return not isinstance(error, (BlockingIOError, PermissionError))
    return True
