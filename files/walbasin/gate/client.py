"""Write to the client of this connection, who is cut off when it does not read."""

import contextlib
import os
import signal
from typing import Iterator

STDOUT = 1
# Seconds for each piece. A client that is still there takes what it is given, or ends
# the connection, long before that.
TIME_LIMIT = 300
# Bytes that are written at a time.
PIECE = 256 * 1024


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise TimeoutError when what is inside takes longer than TIME_LIMIT."""
    signal.signal(signal.SIGALRM, _raise_timeout)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)


def _raise_timeout(_number: int, _frame: object) -> None:
    raise TimeoutError


def write(data: bytes) -> None:
    """Write all of the data.

    Raises OSError when the client is gone or does not read.
    """
    view = memoryview(data)
    while view:
        with time_limit():
            view = view[os.write(STDOUT, view[:PIECE]) :]
