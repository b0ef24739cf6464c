"""Find out what it means that the archive does not have a file.

In a point-in-time recovery "not in the archive" ends the recovery. So it has to be
proved (policy.judge_absence says what); here is where the evidence comes from.
"""

from typing import Dict, NamedTuple, Tuple

from walbasin import policy
from walbasin.fetcher import gap
from walbasin.fetcher.call import Call
from walbasin.fetcher.log import describe
from walbasin.local import data_directory
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


def explain_end(call: Call) -> str:
    """Return why this standby cannot go on to the end of the archive, or "".

    Keep a gap that was found, for the status. Raises FetchError, InvalidWal, OSError.
    """
    assert call.cluster is not None
    size = call.cluster.segment_size
    begin, replayed = data_directory.read_positions(call.cluster)
    reached = max(begin, replayed)
    # 0: a server that has never run.
    known = segment.segment_name(reached.timeline, reached.lsn // size, size) if reached.lsn else ""
    position = next(data_directory.newest_segments(call.cluster), known)
    if not position:
        return ""
    found = survey(call, position, is_thorough=True)
    names = found.listing.names
    fork = holdings.find_fork(*reached, found.target, found.histories) if reached.lsn else 0
    if fork:
        return (
            f"holds timeline {found.target}, which left this server's history at {segment.format_lsn(fork)}, before "
            f"{segment.format_lsn(reached.lsn)}: the next start of this standby would fail. Was another copy promoted? "
            f"If nobody needs timeline {found.target}, remove its WAL and history there"
        )
    if not found.listing.is_whole:
        return ""
    missing, later = holdings.find_gap(position, names, found.target, found.histories, size)
    gap.save(call.spool, missing, later, holdings.newest_segment(names))
    if missing:
        return f"has a gap: it holds {later}, but not {missing}, which comes next here; nobody else may have it"
    return ""
