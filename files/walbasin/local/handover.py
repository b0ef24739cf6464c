"""Give a file its final name, while the shell that waits for this call lives.

PostgreSQL waits for that shell. When it was killed, PostgreSQL goes on or stops without
us, and what is delivered then lies in the way of another call.
"""

import errno
import os
import stat

# The process id of the shell; 0 where there is none to look after.
shell_pid = 0


class ParentGone(BaseException):
    """Report that nobody waits for this call any more."""


def check_parent() -> None:
    """Raise ParentGone when the shell has ended."""
    if shell_pid and os.getppid() != shell_pid:
        raise ParentGone


def check_destination(destination: str) -> None:
    """Raise FileExistsError where a file would replace a device, a pipe or a link."""
    try:
        mode = os.lstat(destination).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "something is there that is no regular file", destination)


def rename(source: str, destination: str, folder: "int | None" = None) -> None:
    """Rename file `source` (in an open folder) to what PostgreSQL looks for.

    Raises ParentGone, OSError.
    """
    check_parent()
    check_destination(destination)
    os.rename(source, destination, src_dir_fd=folder)
