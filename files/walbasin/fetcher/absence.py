"""Find out what it means that the archive does not have a file.

In a point-in-time recovery "not in the archive" ends the recovery. So it has to be
proved (policy.judge_absence says what); here is where the evidence comes from.
"""

from typing import Tuple

from walbasin import policy
from walbasin.fetcher.call import Call
from walbasin.local import data_directory
from walbasin.policy import Evidence
from walbasin.remote.archive import fetch_history, fetch_segment_size
from walbasin.remote.errors import FetchError, NotInArchive
from walbasin.remote.listing import list_archive
from walbasin.wal import holdings, segment


def explain(call: Call) -> Tuple[str, str]:
    """Return the outcome for a file that the archive does not have, and why.

    On a standby nothing is asked: it comes again. Only a .partial must not hide a gap.
    """
    if call.mode == policy.STANDBY and not call.wants_partial:
        return policy.judge_absence(call.mode, Evidence())
    try:
        return policy.judge_absence(call.mode, _collect(call))
    except (FetchError, segment.InvalidWal, NotInArchive, OSError) as error:
        return policy.UNKNOWN, f"not in the archive, and whether recovery may end here cannot be found out: {error}"


def _collect(call: Call) -> Evidence:
    """Return the evidence. Raises FetchError, InvalidWal, NotInArchive, OSError."""
    name, cluster, archive = call.options.wal_name, call.cluster, call.archive()
    if cluster is not None and name in data_directory.newest_segments(cluster):
        return Evidence(is_in_pg_wal=True)
    size = cluster.segment_size if cluster else segment.DEFAULT_SIZE
    histories = dict(data_directory.read_histories(cluster)) if cluster else {}
    position = name if segment.is_segment_name(name) else data_directory.checkpoint_segment(cluster) if cluster else ""
    listing = list_archive(archive, holdings.probes(position, histories, size) if position else [])
    neighbour = holdings.find_neighbour(name, listing.names)
    if neighbour:
        size = fetch_segment_size(archive, neighbour, call.options.spool_dir if call.spool else None)
    evidence = Evidence(is_listed=name in listing.names, neighbour=neighbour, is_passive=listing.is_passive)
    if segment.is_history_name(name):
        return evidence._replace(later=holdings.first_segment(listing.names, segment.timeline(name)))
    own = segment.timeline(name)
    target = data_directory.target_timeline(cluster, own) if cluster else None
    if target is None:
        target = max(own, holdings.newest_timeline(listing.names), *histories)
    for timeline in {own, target} - {1, *histories}:
        history = fetch_history(archive, timeline)
        if history is not None:
            histories[timeline] = history
    return evidence._replace(
        is_on_parent=holdings.is_on_parent(name, histories, size),
        later=holdings.find_later(name, listing.names, target, histories, size),
    )
