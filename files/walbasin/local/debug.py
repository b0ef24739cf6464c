"""Write what happens, with times, to the file that WALBASIN_DEBUG names.

An environment variable, so that options and the fingerprint stay as they are. The
prefetch process has the environment of the call that started it.
"""

import errno
import os

# What a system call answers to whoever has called it wrongly, whatever the disk does.
_MISTAKES = (errno.EBADF, errno.EFAULT, errno.ENOTSOCK)

_path = os.environ.get("WALBASIN_DEBUG", "")


def debug(text: str) -> None:
    """Add one line; a file that cannot be written is no reason to fail."""
    if not _path:
        return
    import time

    now = time.time()
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    line = f"{moment}.{int(now % 1 * 1000):03d} [{os.getpid()}] {text}\n"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(_path, flags, 0o600)
        try:
            os.write(file, line.encode("utf-8", "backslashreplace"))
        finally:
            os.close(file)
    except OSError:
        return


def is_mistake(error: BaseException) -> bool:
    """Return whether an error from the system is ours, not the disk's.

    >>> is_mistake(OSError(errno.ENOSPC, "")), is_mistake(OSError(errno.EBADF, ""))
    (False, True)
    """
    return isinstance(error, OSError) and error.errno in _MISTAKES


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error of ours, and write it to the debug file."""
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
    debug(text)
    return text
