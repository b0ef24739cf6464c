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
PIECE, FILE_PIECE = 256 * 1024, 512 * 1024
# Bytes that the pipe to sshd holds, and seconds in which sshd, at its fastest, takes
# less than that. It takes 32 KiB at a time: without a pause so do we.
PIPE_SIZE, PAUSE = 256 * 1024, 0.00025


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
    if 0 < count < piece and _is_large_pipe():
        time.sleep(PAUSE)
    return count


@functools.lru_cache(maxsize=None)
def _is_large_pipe() -> bool:
    return pipe.enlarge(STDOUT, PIPE_SIZE)


def write(data: bytes) -> None:
    """Write all of the data.

    Raises OSError when the client is gone or does not read.
    """
    view = memoryview(data)
    while view:
        with _time_limit():
            view = view[os.write(STDOUT, view[:PIECE]) :]
