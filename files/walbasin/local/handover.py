"""Give a file its final name, while the shell that waits for this call lives.

PostgreSQL waits for that shell. When it was killed, PostgreSQL goes on or stops without
us, and what is delivered then lies in the way of another call.
"""

import os

# The process id of the shell; 0 where there is none to look after.
shell_pid = 0


class ParentGone(BaseException):
    """Report that nobody waits for this call any more."""


def check_parent() -> None:
    """Raise ParentGone when the shell has ended."""
    if shell_pid and os.getppid() != shell_pid:
        raise ParentGone


def rename(source: str, destination: str, folder: "int | None" = None) -> None:
    """Rename file `source` (in an open folder) to what PostgreSQL looks for.

    Raises ParentGone, OSError.
    """
    check_parent()
    os.rename(source, destination, src_dir_fd=folder)
