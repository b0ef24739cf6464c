"""Carry WAL through pipes in large pieces: each look into a pipe takes CPU."""

import fcntl

# fcntl.h; Python's fcntl has it from 3.10 on.
F_SETPIPE_SZ = 1031
# Seconds between two looks into a pipe, at least and at most.
SHORTEST, LONGEST = 0.00025, 0.008


def resize(pipe: int, size: int) -> bool:
    """Have a pipe hold `size` bytes.

    Returns False where the kernel does not: it is no pipe, or the user has a limit.
    """
    try:
        fcntl.fcntl(pipe, F_SETPIPE_SZ, size)
    except OSError:
        return False
    return True


def next_pause(pause: float, moved: int, size: int) -> float:
    """Return the seconds until the next look into a pipe of `size` bytes.

    Half of it shall be moved meanwhile. pause: seconds before this look, which has
    moved so many bytes.

    >>> next_pause(0.002, moved=1024, size=4096)
    0.004
    """
    factor = min(2.0, max(0.5, size / 2 / moved))
    return min(LONGEST, max(SHORTEST, factor * pause))
