"""Notice that a standby is to be promoted: then nobody may be held up.

PostgreSQL takes `promote` away before it asks for what the archive may still have. So a
call that begins then sees no file. What it sees is that the data directory has changed
a moment ago.
"""

import contextlib
import os
import time
from typing import NamedTuple, Tuple

from walbasin.local import data_directory
from walbasin.local.data_directory import DataDirectory

# Seconds after a change of the data directory for which a promotion may be going on.
RECENT = 10.0
# Seconds after its start in which a server changes the data directory by itself.
STARTING = 5.0


class Promotion(NamedTuple):
    """Hold what asks for a promotion. Of what is no standby it holds nothing.

    files: as soon as one is there, a promotion is asked for. folder: from there
    PostgreSQL takes them away. started: when the server did, in seconds since 1970.
    """

    files: Tuple[str, ...] = ()
    folder: str = ""
    started: int = 0

    def is_asked_for(self) -> bool:
        """Return whether a promotion is asked for, or may have just been."""
        if any(map(os.path.exists, self.files)):
            return True
        changed = 0.0
        if self.folder:
            with contextlib.suppress(OSError):
                changed = os.stat(self.folder).st_mtime
        return may_be_going_on(time.time(), changed, self.started)


def may_be_going_on(now: float, changed: float, started: float) -> bool:
    """Return whether a change of the data directory may have been a promotion's.

    All are seconds since 1970. Other changes are rare. Then an archive that is silent
    is asked again later, and no more happens.

    >>> may_be_going_on(now=1000, changed=995, started=100)
    True
    >>> may_be_going_on(now=1000, changed=100, started=100)
    False
    """
    return 0 <= now - changed < RECENT and changed - started > STARTING


def watch(cluster: DataDirectory) -> Promotion:
    """Return what asks for the promotion of a standby."""
    files = tuple(data_directory.promotion_files(cluster))
    if cluster.postmaster_id is None:
        return Promotion(files)
    return Promotion(files, cluster.path, data_directory.start_time(cluster.postmaster_id))
