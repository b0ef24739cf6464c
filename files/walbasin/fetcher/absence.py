"""Find out what it means that the archive does not have a file.

In a point-in-time recovery "not in the archive" ends the recovery. So it has to be
proved (policy.judge_absence says what); here is where the evidence comes from.
"""

import time
from typing import Dict, NamedTuple, Tuple

from walbasin import policy
from walbasin.fetcher import gap, timeline_guard
from walbasin.fetcher.call import Call
from walbasin.fetcher.log import describe
from walbasin.fetcher.timeline_guard import Abandoned
from walbasin.local import data_directory
from walbasin.local.data_directory import Position
from walbasin.policy import Evidence
from walbasin.remote.archive import fetch_history, fetch_segment_size
from walbasin.remote.errors import FetchError, NotInArchive
from walbasin.remote.listing import Listing, ask_gate, list_archive
from walbasin.wal import holdings, segment
from walbasin.wal.holdings import History


class Survey(NamedTuple):
    """Hold what the archive has, and the way that recovery goes through it.

    target: the timeline that it goes to. histories: by timeline, those that matter.
    """

    listing: Listing
    target: int
    histories: Dict[int, History]


def explain(call: Call, is_look_due: bool) -> Tuple[str, str]:
    """Return the outcome for a file that the archive does not have, and why.

    On a standby nothing is asked as a rule: PostgreSQL asks for it again. is_look_due:
    it has asked for long, so look for a gap.
    """
    name, is_answered = call.options.wal_name, call.mode == policy.STANDBY and not call.wants_partial
    if is_answered and not is_look_due:
        return policy.judge_absence(name, call.mode, Evidence())
    try:
        evidence = _collect(call)
    except (FetchError, segment.InvalidWal, NotInArchive, OSError) as error:
        if is_answered:
            gap.postpone(call.spool)
            return policy.judge_absence(name, call.mode, Evidence())
        is_withheld = isinstance(error, NotInArchive)
        cause = "it lists a file that it does not give out" if is_withheld else describe(error)
        return policy.UNKNOWN, f"not in the archive, and whether recovery may end here cannot be found out: {cause}"
    return policy.judge_absence(name, call.mode, evidence)


def _collect(call: Call) -> Evidence:
    """Return the evidence. Raises FetchError, InvalidWal, NotInArchive, OSError."""
    name, cluster, archive = call.options.wal_name, call.cluster, call.archive()
    if cluster is not None and name in data_directory.newest_segments(cluster):
        return Evidence(is_in_pg_wal=True)
    position = name if segment.is_segment_name(name) else data_directory.checkpoint_segment(cluster) if cluster else ""
    found = survey(call, position)
    names = found.listing.names
    neighbour = holdings.find_neighbour(name, names)
    size = cluster.segment_size if cluster else segment.DEFAULT_SIZE
    if neighbour and call.mode == policy.RECOVERY:
        size = fetch_segment_size(archive, neighbour, call.options.spool_dir if call.spool else None)
    if segment.is_history_name(name):
        later = holdings.first_segment(names, segment.timeline(name))
    else:
        later = holdings.find_later(name, names, found.target, found.histories, size)
    if call.mode == policy.STANDBY:
        gap.save(call.spool, name if later else "", later, holdings.newest_segment(names))
    return Evidence(
        is_listed=name in names,
        is_on_parent=segment.is_segment_name(name) and holdings.is_on_parent(name, found.histories, size),
        later=later,
        neighbour=neighbour,
        is_passive=found.listing.is_passive,
    )


def survey(call: Call, position: str, is_thorough: bool = False) -> Survey:
    """Return what the archive has. Raises FetchError, InvalidWal.

    position: a segment that recovery is at. On a standby only a gate is asked, in one
    request: a promotion may wait for this call. is_thorough: none does.
    """
    cluster, archive = call.cluster, call.archive()
    size = cluster.segment_size if cluster else segment.DEFAULT_SIZE
    histories = dict(data_directory.read_histories(cluster)) if cluster else {}
    if call.mode == policy.STANDBY and not is_thorough:
        listing = ask_gate(archive)
    else:
        listing = list_archive(archive, holdings.probes(position, histories, size) if position else [])
    own = segment.timeline(position) if position else 1
    target = data_directory.target_timeline(cluster, own) if cluster else None
    if target is None:
        target = max(own, holdings.newest_timeline(listing.names), *histories)
    for timeline in {own, target} - {1, *histories}:
        history = fetch_history(archive, timeline)
        if history is not None:
            histories[timeline] = history
    return Survey(listing, target, histories)


class End(NamedTuple):
    """Hold whether a standby can go on to the end of the archive.

    error: why not, or "". abandoned: a timeline there that it does not follow.
    """

    error: str = ""
    abandoned: Abandoned = Abandoned()


def look_to_the_end(call: Call) -> End:
    """Look whether this standby can go on to the end of the archive.

    Keep what was found for the status. Raises FetchError, InvalidWal, OSError.
    """
    assert call.cluster is not None
    size = call.cluster.segment_size
    begin, replayed = data_directory.read_positions(call.cluster)
    reached = max(begin, replayed)
    # 0: a server that has never run.
    known = segment.segment_name(reached.timeline, reached.lsn // size, size) if reached.lsn else ""
    position = next(data_directory.newest_segments(call.cluster), known)
    if not position:
        return End()
    found = survey(call, position, is_thorough=True)
    names = found.listing.names
    abandoned = Abandoned()
    if reached.lsn:
        found, abandoned = _take_followable(call, reached, found)
        timeline_guard.save(call.spool, abandoned)
    if abandoned.timeline and not timeline_guard.is_on(call):
        error = f"holds {abandoned.describe()}: its next start would fail. {timeline_guard.REMEDY}"
        return End(error, abandoned)
    if not found.listing.is_whole:
        return End("", abandoned)
    missing, later = holdings.find_gap(position, names, found.target, found.histories, size)
    gap.save(call.spool, missing, later, holdings.newest_segment(names))
    error = f"has a gap: it holds {later}, but not {missing}, which comes next here; nobody else may have it"
    return End(error if missing else "", abandoned)


def _take_followable(call: Call, reached: Position, found: Survey) -> Tuple[Survey, Abandoned]:
    """Return the way to the newest timeline that can be followed, and one that cannot.

    PostgreSQL takes the newest one; the timeline guard has it take the one that can be
    followed. Raises FetchError, InvalidWal.
    """
    abandoned = Abandoned()
    histories = dict(found.histories)
    timelines = {found.target, *map(segment.timeline, found.listing.names)}
    for target in sorted((each for each in timelines if each > reached.timeline), reverse=True):
        if target not in histories:
            histories[target] = fetch_history(call.archive(), target) or []
        fork = holdings.find_fork(*reached, target, histories)
        if not fork:
            return found._replace(target=target, histories=histories), abandoned
        abandoned = Abandoned(time.time(), target, fork, reached.lsn)
    return found._replace(target=reached.timeline, histories=histories), abandoned
