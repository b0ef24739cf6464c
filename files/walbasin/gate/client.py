"""Write to the client of this connection, who is cut off when it does not read."""

import contextlib
import functools
import os
import signal
import time
from typing import Iterator

from walbasin.wal import pipe

STDOUT = 1
# Seconds for each piece. A client that is still there takes what it is given, or ends
# the connection, long before that.
TIME_LIMIT = 300
# Bytes that are written, and that the kernel sends, at a time.
PIECE, FILE_PIECE = 256 * 1024, 1024 * 1024
# Bytes that the pipe to sshd holds while files are sent, at first and at most, and
# between them. The pipes of a user hold 64 MiB; one made beyond has 8 KiB (pipe(7)), in
# which a segment takes three times the CPU.
SMALL, LARGE, AT_REST = 256 * 1024, 1024 * 1024, 64 * 1024
# Pauses in which the pipe runs dry, one after the other, before it grows: what ssh and
# TCP take at once of a file, on a slow link, needs fewer.
DRY_PAUSES = 16
# Bytes a second that sshd takes, at its fastest.
FASTEST = 1 << 30


class OutgoingPipe:
    """Pause until sshd has taken most of what is in its pipe.

    sshd takes 32 KiB at a time: without a pause so do we. Where the pipe runs dry
    meanwhile, it grows.
    """

    def __init__(self, descriptor: int) -> None:
        # Bytes that it holds, and may hold; 0 while it is as sshd has made it.
        self.size, self._most = 0, LARGE
        self._descriptor = descriptor
        self._dry_pauses = 0

    def pause(self, taken: int) -> None:
        """Wait, with a pipe that is full. taken: bytes for which it had room before."""
        self._dry_pauses = self._dry_pauses + 1 if taken > self.size * 3 // 4 else 0
        if self.size < self._most and (self.size == 0 or self._dry_pauses > DRY_PAUSES):
            self._grow()
        if self.size:
            time.sleep(self.size / FASTEST)

    def _grow(self) -> None:
        larger, self._dry_pauses = max(SMALL, 2 * self.size), 0
        if pipe.resize(self._descriptor, larger):
            self.size = larger
        else:
            self._most = self.size

    def release(self) -> None:
        """Leave room for other pipes of this user, while there is nothing to send."""
        if self.size and pipe.resize(self._descriptor, AT_REST):
            self.size = 0


PIPE = OutgoingPipe(STDOUT)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raise TimeoutError when what is inside takes longer than TIME_LIMIT."""
    _catch_alarms()
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)


@functools.lru_cache(maxsize=None)  # Python takes longer for it than for all the rest
def _catch_alarms() -> None:
    signal.signal(signal.SIGALRM, _raise_timeout)


def _raise_timeout(_number: int, _frame: object) -> None:
    raise TimeoutError


def send(descriptor: int, position: int, most: int) -> int:
    """Send bytes of a file, `most` at most. Return how many: 0 at its end.

    Raises OSError when the client is gone or does not read.
    """
    piece = min(most, FILE_PIECE)
    with _time_limit():
        count = os.sendfile(STDOUT, descriptor, position, piece)
    if 0 < count < piece:
        PIPE.pause(count)
    return count


def write(data: bytes) -> None:
    """Write all of the data.

    Raises OSError when the client is gone or does not read.
    """
    view = memoryview(data)
    while view:
        with _time_limit():
            view = view[os.write(STDOUT, view[:PIECE]) :]
