"""Carry WAL through pipes in large pieces: each look into a pipe takes CPU."""

import fcntl

# fcntl.h; Python's fcntl has it from 3.10 on.
F_SETPIPE_SZ = 1031


def resize(pipe: int, size: int) -> bool:
    """Have a pipe hold `size` bytes.

    Returns False where the kernel does not: it is no pipe, or the user has a limit.
    """
    try:
        fcntl.fcntl(pipe, F_SETPIPE_SZ, size)
    except OSError:
        return False
    return True
