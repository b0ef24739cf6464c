"""Keep a standby away from a timeline with which it could not start.

PostgreSQL starts on the newest timeline whose history it finds. When that one has left
this server's own history before the point where it is (another copy was promoted), it
dies, at every start. While it runs it stays where it is, and no guard is needed: a
promotion must see each timeline that is taken.
"""

import contextlib
import json
import os
import time
from typing import NamedTuple, Optional

from walbasin import policy
from walbasin.fetcher.call import Call
from walbasin.local import data_directory
from walbasin.local.spool import Spool
from walbasin.prefetch import counters
from walbasin.remote.archive import fetch_history
from walbasin.remote.errors import FetchError
from walbasin.wal import holdings, segment
from walbasin.wal.holdings import History

# The name of the file in the spool.
FILE = "abandoned_timeline.json"
# What to do about it.
REMEDY = "Was another copy promoted? If nobody needs that timeline, remove its files from Barman's archive"
# What is put behind the name of a history in pg_wal that PostgreSQL must not read.
RENAMED = ".abandoned"


class Abandoned(NamedTuple):
    """Hold a timeline of the archive that this server cannot follow.

    time: seconds since 1970. timeline: 0 where there is none. left_at: the LSN at which
    it left this server's history. reached: where this server was. withheld: how often
    PostgreSQL was not told of such a timeline.
    """

    time: float = 0.0
    timeline: int = 0
    left_at: int = 0
    reached: int = 0
    withheld: int = 0

    def describe(self) -> str:
        """Return it in words."""
        return (
            f"timeline {self.timeline}, which left this server's history at {segment.format_lsn(self.left_at)}, "
            f"before {segment.format_lsn(self.reached)}, where this server is"
        )


def save(spool: Optional[Spool], found: Abandoned, is_withheld: bool = False) -> None:
    """Keep what was found, for whoever watches. Count it when it was withheld."""
    if spool is not None:
        found = found._replace(withheld=load(spool).withheld + is_withheld)
        spool.save_text(FILE, json.dumps(found._asdict()))


def load(spool: Optional[Spool]) -> Abandoned:
    """Return what was found last; nothing, where nobody has looked."""
    return counters.parse_tuple(spool.load_text(FILE), Abandoned()) if spool is not None else Abandoned()


def is_on(call: Call) -> bool:
    """Return whether the server is a standby that takes the newest timeline."""
    return (
        call.cluster is not None
        and call.mode == policy.STANDBY
        and not call.options.any_timeline
        and data_directory.target_timeline(call.cluster, 1) is None
    )


def withhold(call: Call, is_delivered: bool) -> str:
    """Take back a history with which PostgreSQL could not start. Return why, or "".

    Where PostgreSQL cannot get a history by restore_command, it takes the one in
    pg_wal: that is renamed. Raises OSError.
    """
    name, cluster = call.options.wal_name, call.cluster
    if cluster is None or not segment.is_history_name(name) or not is_on(call):
        return ""
    if not data_directory.is_starting(cluster):
        return ""
    found = _find_abandoned(call, is_delivered)
    if not found.timeline:
        return ""
    if is_delivered:
        os.unlink(call.options.wal_dest)
    in_pg_wal = cluster.file(f"pg_wal/{name}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(in_pg_wal, in_pg_wal + RENAMED)
    save(call.spool, found, is_withheld=True)
    return f"{found.describe()}, is kept from PostgreSQL, which could not start with it. {REMEDY}"


def _find_abandoned(call: Call, is_delivered: bool) -> Abandoned:
    """Return what is wrong with the timeline that is asked for."""
    assert call.cluster is not None
    asked = segment.timeline(call.options.wal_name)
    reached = max(data_directory.read_positions(call.cluster))
    histories = dict(data_directory.read_histories(call.cluster))
    if reached.timeline not in {1, *histories}:
        histories[reached.timeline] = _fetch(call, reached.timeline) or []
    if is_delivered:
        with open(call.options.wal_dest, "rb") as file:
            histories[asked] = segment.parse_history(call.options.wal_name, file.read(segment.HISTORY_LIMIT))
    left_at = holdings.find_dead_end(
        asked, *reached, histories, lambda timeline: _fetch(call, timeline) or histories.get(timeline)
    )
    if not left_at:
        return Abandoned()
    return Abandoned(time=time.time(), timeline=asked, left_at=left_at, reached=reached.lsn)


def _fetch(call: Call, timeline: int) -> Optional[History]:
    """Return a history that a host has. None where there is none, or nobody can tell.

    PostgreSQL would not get it either. What it misses now it finds when it runs.
    """
    memory = call.host_memory()
    for archive in call.archives():
        with contextlib.suppress(FetchError, segment.InvalidWal):
            history = None if memory.why_skipped(archive.remote.host) else fetch_history(archive, timeline)
            if history is not None:
                return history
    return None
