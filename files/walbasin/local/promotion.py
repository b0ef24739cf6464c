"""Notice that a standby is to be promoted: then nobody may be held up.

PostgreSQL takes `promote` away before it asks for what the archive may still have. So a
call that begins then sees no file. What it sees is that something was taken out of the
data directory a moment ago.
"""

import contextlib
import os
import time
from typing import Iterable, Iterator, NamedTuple, Tuple

from walbasin.local import data_directory
from walbasin.local.data_directory import DataDirectory

# Seconds after a change of the data directory for which a promotion may be going on.
RECENT = 10.0
# Seconds after its start in which a server tidies up.
STARTING = 5.0
# Seconds between a change of a folder and that of the file which was put there, by the
# kernel's clock.
TICK = 0.02


class Promotion(NamedTuple):
    """Hold what asks for a promotion. Of what is no standby it holds nothing.

    files: as soon as one is there, a promotion is asked for. folder: the data
    directory, when a server runs on it. started: when, in seconds since 1970.
    """

    files: Tuple[str, ...] = ()
    folder: str = ""
    started: int = 0

    def is_asked_for(self) -> bool:
        """Return whether a promotion is asked for, or was a moment ago."""
        return self.has_file() or (bool(self.folder) and self._may_be_going_on())

    def has_file(self) -> bool:
        """Return whether a file is there that asks for it."""
        return any(map(os.path.exists, self.files))

    def _may_be_going_on(self) -> bool:
        try:
            changed = os.stat(self.folder).st_mtime
            is_recent = 0 <= time.time() - changed < RECENT and changed - self.started > STARTING
            return is_recent and was_removal(changed, _changes_of_files(self.folder))
        except OSError:
            return False


def was_removal(changed: float, files: Iterable[float]) -> bool:
    """Return whether a folder's last change was that something was taken away.

    changed: its time. files: the times at which the files there have changed. One that
    was made, or renamed, has changed together with the folder.

    >>> was_removal(1000.0, [400.0, 999.0])
    True
    >>> was_removal(1000.0, [400.0, 999.996])
    False
    """
    return not any(abs(changed - each) <= TICK for each in files)


def _changes_of_files(folder: str) -> Iterator[float]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_ctime


def watch(cluster: DataDirectory) -> Promotion:
    """Return what asks for the promotion of a standby."""
    files = tuple(data_directory.promotion_files(cluster))
    if cluster.postmaster_id is None:
        return Promotion(files)
    return Promotion(files, cluster.path, data_directory.start_time(cluster.postmaster_id))
