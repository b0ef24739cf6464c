"""Remember a gap in the archive that a standby has come to, for whoever watches."""

import json
import time
from typing import NamedTuple, Optional

from walbasin.local.spool import Spool
from walbasin.prefetch import counters
from walbasin.prefetch.process import LOOK_INTERVAL
from walbasin.wal import segment

# The name of the file in the spool.
FILE = "gap.json"


class Gap(NamedTuple):
    """Hold when the archive was looked at, and what was found.

    time: seconds since 1970. missing: what PostgreSQL wants and the archive lacks,
    empty where there is no gap. later: a segment that the archive holds behind it.
    newest: the newest segment of the archive.
    """

    time: float = 0.0
    missing: str = ""
    later: str = ""
    newest: str = ""


def save(spool: Optional[Spool], missing: str, later: str, newest: str) -> None:
    """Keep what a look at the archive has found."""
    if spool is not None:
        spool.save_text(FILE, json.dumps(Gap(time.time(), missing, later, newest)._asdict()))


def postpone(spool: Optional[Spool]) -> None:
    """Look again later: this time nobody could tell. What was found before is kept."""
    if spool is not None:
        save(spool, *load(spool)[1:])


def load(spool: Spool) -> Gap:
    """Return what the last look has found; nothing, where there was none."""
    return counters.parse_tuple(spool.load_text(FILE), Gap())


def still_ahead(found: Gap, newest: str) -> Gap:
    """Return a gap, or none where the standby has passed it, by streaming or by hand.

    newest: the newest segment in its pg_wal.
    """
    if segment.is_segment_name(found.missing):
        is_passed = newest[8:] >= found.missing[8:]
    else:
        is_passed = newest[:8] >= found.missing[:8]
    return Gap() if is_passed else found


def is_look_due(spool: Optional[Spool]) -> bool:
    """Return whether the last look was long ago."""
    return spool is not None and time.time() - load(spool).time > LOOK_INTERVAL
