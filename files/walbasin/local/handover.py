"""The shell that waits for this call, as PostgreSQL waits for the shell.

When it was killed, PostgreSQL goes on or stops without us. What is delivered then lies in the way of another call.
"""

import os

# Of the shell; 0: somebody else's call, which is not looked after.
pid = 0


class Gone(BaseException):
    """Nobody waits for this call any more."""


def check() -> None:
    """Raises Gone."""
    if pid and os.getppid() != pid:
        raise Gone


def hand_over(source: str, destination: str, folder: "int | None" = None) -> None:
    """Give file `source` (in an open folder) the name that PostgreSQL looks for. Raises Gone, OSError."""
    check()
    os.rename(source, destination, src_dir_fd=folder)
