"""Write files that appear whole or not at all."""

import contextlib
import fcntl
import os
from typing import BinaryIO, Iterator

from walbasin.local import handover

# Of a file that is not whole yet.
SUFFIX = ".walbasin"


@contextlib.contextmanager
def whole_file(destination: str) -> Iterator[BinaryIO]:
    """Yield a file that gets the name `destination` when the block ends well.

    When it does not, nothing is left. The file is written beside its destination, so
    that the last step is a rename. Raises OSError, and does nothing, where something
    else than a file is in its place.
    """
    handover.check_destination(destination)
    folder, name = os.path.split(os.path.abspath(destination))
    sweep(folder, name)
    unfinished = os.path.join(folder, f"{name}.{os.getpid()}{SUFFIX}")
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            handover.rename(unfinished, destination)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise


def sweep(folder: str, name: str) -> None:
    """Remove what killed calls left behind of file `name`. Raises OSError.

    A living call holds a lock on its own.
    """
    for leftover in os.listdir(folder):
        if not (leftover.startswith(name + ".") and leftover.endswith(SUFFIX)):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(os.path.join(folder, leftover), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(os.path.join(folder, leftover))
            finally:
                os.close(descriptor)
