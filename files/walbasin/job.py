"""One call of barman-wal-restore: what it was asked, for which cluster, and how it speaks."""

import contextlib
import sys
from typing import NamedTuple, Optional

from walbasin.cluster import Cluster
from walbasin.options import Options
from walbasin.spool import Spool


class Job(NamedTuple):
    """The options, the cluster (None when called by hand elsewhere), how it is recovered (policy), and its spool."""

    options: Options
    cluster: Optional[Cluster]
    mode: str
    spool: Optional[Spool]


def say(text: str) -> None:
    """One line in the server log; a log that cannot be written is no reason to fail."""
    with contextlib.suppress(OSError):
        print(f"barman-wal-restore: {text}", file=sys.stderr, flush=True)
