"""Find out what it means that the archive does not have a file.

In a point-in-time recovery "not in the archive" ends the recovery. So it has to be
proved (policy.judge_absence says what); here is where the evidence comes from.
"""

import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from walbasin import policy
from walbasin.fetcher import gap, timeline_guard
from walbasin.fetcher.call import Call
from walbasin.fetcher.log import describe
from walbasin.fetcher.timeline_guard import Abandoned
from walbasin.local import data_directory
from walbasin.local.data_directory import Position
from walbasin.policy import ABSENT, UNKNOWN, Evidence, HostAnswer
from walbasin.remote.archive import Archive, fetch_history, fetch_segment_size
from walbasin.remote.errors import FetchError, GivenUp, HostUnreachable, NotInArchive
from walbasin.remote.listing import Listing, ask_gate, list_archive
from walbasin.wal import holdings, segment
from walbasin.wal.holdings import History


class Survey(NamedTuple):
    """Hold what the archives have, and the way that recovery goes through them.

    listing: of all together. of_hosts: each archive, and its own. unheard: the hosts
    that could have more, and could not be asked. target: the timeline that it goes to.
    histories: by timeline, those that matter. copies: the passive nodes, in words.
    """

    listing: Listing
    of_hosts: Sequence[Tuple[Archive, Listing]]
    unheard: Sequence[FetchError]
    target: int
    histories: Dict[int, History]
    copies: Sequence[str]


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
    name, cluster = call.options.wal_name, call.cluster
    if cluster is not None and name in data_directory.newest_segments(cluster):
        return Evidence(is_in_pg_wal=True)
    position = name if segment.is_segment_name(name) else data_directory.checkpoint_segment(cluster) if cluster else ""
    found = survey(call, position)
    names = found.listing.names
    size = cluster.segment_size if cluster else segment.DEFAULT_SIZE
    neighbour, unproved = holdings.find_neighbour(name, names), ""
    if call.mode == policy.RECOVERY:
        if found.unheard:
            raise found.unheard[0]
        # Each host that could have the file proves whose archive it has.
        for archive, listing in found.of_hosts:
            host = archive.remote.host if len(call.options.barman_hosts) > 1 else ""
            neighbour = holdings.find_neighbour(name, listing.names)
            if not neighbour:
                unproved = host
                break
            try:
                size = fetch_segment_size(archive, neighbour, call.options.spool_dir if call.spool else None)
            except segment.InvalidWal as error:
                raise segment.InvalidWal(f"{host}: {error}" if host else str(error)) from error
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
        is_passive=found.listing.passive_node is not None and not call.options.accept_passive,
        unproved=unproved,
    )


def survey(call: Call, position: str, is_thorough: bool = False) -> Survey:
    """Return what the archives have. Raises FetchError, InvalidWal.

    position: a segment that recovery is at. On a standby only a gate is asked, in one
    request: a promotion may wait for this call. is_thorough: none does.
    """
    cluster = call.cluster
    size = cluster.segment_size if cluster else segment.DEFAULT_SIZE
    histories = dict(data_directory.read_histories(cluster)) if cluster else {}
    if call.mode == policy.STANDBY and not is_thorough:
        listings, errors = _ask_all(call, ask_gate)
    else:
        probes = holdings.probes(position, histories, size) if position else []
        listings, errors = _ask_all(call, lambda archive: list_archive(archive, probes))
    listing, needed, unheard = _combine(call, listings, errors)
    own = segment.timeline(position) if position else 1
    target = data_directory.target_timeline(cluster, own) if cluster else None
    if target is None:
        target = max(own, holdings.newest_timeline(listing.names), *histories)
    for timeline in {own, target} - {1, *histories}:
        history = _find_history(listings, timeline)
        if history is not None:
            histories[timeline] = history
    return Survey(
        listing=listing,
        of_hosts=needed,
        unheard=unheard,
        target=target,
        histories=histories,
        copies=_describe_copies(listings),
    )


def _find_history(archives: Iterable[Archive], timeline: int) -> Optional[History]:
    """Return the history of a timeline from the first archive that has it, or None.

    Raises FetchError, InvalidWal.
    """
    found = (fetch_history(archive, timeline) for archive in archives)
    return next((history for history in found if history is not None), None)


def _ask_all(call: Call, ask: Callable[[Archive], Listing]) -> Tuple[Dict[Archive, Listing], Dict[Archive, FetchError]]:
    """Return what each host that lives holds, and why others could not be asked.

    Raises FetchError when none could.
    """
    listings: Dict[Archive, Listing] = {}
    errors: Dict[Archive, FetchError] = {}
    memory, archives = call.host_memory(), call.archives()
    for archive in archives:
        cause = memory.why_skipped(archive.remote.host) if len(archives) > 1 else ""
        try:
            if cause:
                raise HostUnreachable(cause)
            listings[archive] = ask(archive)
            if len(archives) > 1:
                memory.note_passive(archive.remote.host, _copied(listings[archive]))
        except GivenUp:
            raise
        except FetchError as error:
            errors[archive] = error
    if not listings:
        raise next(iter(errors.values()))
    return listings, errors


def _combine(
    call: Call, listings: Dict[Archive, Listing], errors: Dict[Archive, FetchError]
) -> Tuple[Listing, List[Tuple[Archive, Listing]], List[FetchError]]:
    """Return what all have together, and of those that could have more, the answers."""
    memory = call.host_memory()
    answers = [HostAnswer(each.remote.host, ABSENT, copied=_copied(found)) for each, found in listings.items()]
    answers += [HostAnswer(each.remote.host, UNKNOWN, copied=memory.copied(each.remote.host)) for each in errors]
    needed = {answer.host for answer in policy.must_be_heard(answers)}
    nodes = [found.passive_node for found in listings.values()]
    whole = Listing(
        frozenset().union(*(found.names for found in listings.values())),
        nodes[0] if all(nodes) else None,
        all(found.is_whole for found in listings.values()),
    )
    heard = [(each, found) for each, found in listings.items() if each.remote.host in needed]
    return whole, heard, [error for each, error in errors.items() if each.remote.host in needed]


def _describe_copies(listings: Dict[Archive, Listing]) -> List[str]:
    """Return what is known of each passive node, in words."""
    texts = []
    for archive, found in listings.items():
        if found.passive_node is not None:
            newest = holdings.newest_segment(found.names) or "no segment"
            texts.append(f"{archive.remote.host} is a passive copy of {found.passive_node.describe()}; it has {newest}")
    return texts


def _copied(found: Listing) -> Optional[str]:
    """Return whose archive this is a copy of (HostAnswer.copied)."""
    return found.passive_node.source if found.passive_node else None


class End(NamedTuple):
    """Hold whether a standby can go on to the end of the archive.

    error: why not, or "". abandoned: a timeline there that it does not follow. copies:
    the passive nodes, each in words.
    """

    error: str = ""
    abandoned: Abandoned = Abandoned()
    copies: Sequence[str] = ()


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
    end = End("", abandoned, found.copies)
    if abandoned.timeline and not timeline_guard.is_on(call):
        return end._replace(error=f"holds {abandoned.describe()}: its next start would fail. {timeline_guard.REMEDY}")
    if not found.listing.is_whole:
        return end
    missing, later = holdings.find_gap(position, names, found.target, found.histories, size)
    gap.save(call.spool, missing, later, holdings.newest_segment(names))
    error = f"has a gap: it holds {later}, but not {missing}, which comes next here; nobody else may have it"
    return end._replace(error=error if missing else "")


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
            histories[target] = _find_history((archive for archive, _ in found.of_hosts), target) or []
        fork = holdings.find_fork(*reached, target, histories)
        if not fork:
            return found._replace(target=target, histories=histories), abandoned
        abandoned = Abandoned(time=time.time(), timeline=target, left_at=fork, reached=reached.lsn)
    return found._replace(target=reached.timeline, histories=histories), abandoned
