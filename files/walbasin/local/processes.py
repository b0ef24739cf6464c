"""Read what the kernel says of other processes: /proc/PID/stat, see proc(5)."""

from typing import List, Optional

# Indices into what stat_fields returns: state, ppid and cminflt.
STATE, PARENT, CHILD_FAULTS = 0, 1, 8
ZOMBIE = "Z"


def stat_fields(text: str) -> List[str]:
    """Return the fields of a stat file behind the name, which may have any character.

    >>> stat_fields("7 (a) b) S 1 7")
    ['S', '1', '7']
    """
    return text.rpartition(")")[2].split()


def read_stat(process: Optional[int]) -> List[str]:
    """Return the stat_fields of a process. Raises OSError."""
    with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
        return stat_fields(file.read())


def parent_of(process: int) -> int:
    """Return the id of a process's parent, 0 where there is none."""
    try:
        return int(read_stat(process)[PARENT])
    except OSError:
        return 0


def is_zombie(process: Optional[int]) -> bool:
    """Return whether a process has ended, and nobody has taken note of it."""
    try:
        return read_stat(process)[STATE] == ZOMBIE
    except OSError:
        return False
