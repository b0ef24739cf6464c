"""Decide from the names that an archive holds what a missing file means.

A "history" here is what segment.parse_history returns: pairs of a parent timeline and
the LSN at which it was left, oldest first.
"""

from typing import Callable, Collection, Iterable, List, Mapping, Optional, Tuple

from walbasin.wal import segment, window

History = List[Tuple[int, int]]

# How far from a missing segment probes lie: far, and with few requests.
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
# How many timelines are looked at behind one that cannot be followed.
MOST_AHEAD = 100
# How many timelines above its own, and how far, where no history tells of them.
CHILDREN, CHILD_STEPS = 2, (0, 1, 2, 4, 8)


def first_segment(held: Iterable[str], timeline: int, after: str = "") -> str:
    """Return the first segment of a timeline, behind segment `after` of it, or "".

    >>> first_segment({"00000002.history", "000000020000000000000005"}, 2)
    '000000020000000000000005'
    """
    names = [name for name in held if segment.is_segment_name(name) and segment.timeline(name) == timeline]
    return min((name for name in names if name > after), default="")


def newest_segment(held: Iterable[str]) -> str:
    """Return the newest segment of the newest timeline that has any, or ""."""
    return max(filter(segment.is_segment_name, held), default="")


def newest_timeline(held: Iterable[str]) -> int:
    """Return the newest timeline with a file in the archive, 0 where it has none."""
    return max((segment.timeline(name) for name in held), default=0)


def is_on_parent(missing: str, histories: Mapping[int, History], size: int) -> bool:
    """Return whether a missing segment lies before the beginning of its timeline.

    PostgreSQL before 13 asks for every segment on the newest timeline first, and then
    on that timeline's parents. size: bytes of a segment.
    """
    own, number = segment.timeline(missing), segment.segment_number(missing, size)
    starts = [window.timeline_starts(f"{each:08X}.history", switches, size) for each, switches in histories.items()]
    return any(number < start.get(own, 0) for start in starts)


def find_later(missing: str, held: Collection[str], target: int, histories: Mapping[int, History], size: int) -> str:
    """Return a held segment that replay wants only after the missing one, or "".

    It lies on the same timeline, or on one that leads from there to `target`, the
    timeline that recovery goes to. Without a history, nobody knows which do: then it is
    any that has none. histories: the known ones, by timeline. size: bytes of a segment.
    """
    own, number = segment.timeline(missing), segment.segment_number(missing, size)
    later = first_segment(held, own, after=missing)
    if later:
        return later
    way = histories.get(target)
    timelines = sorted({segment.timeline(name) for name in held if segment.is_segment_name(name)})
    for child in (each for each in timelines if own < each <= target):
        if way is None:
            is_behind = child not in histories
        else:
            is_on_way = child == target or child in dict(way)
            is_behind = is_on_way and any(number <= lsn // size for parent, lsn in way if parent == own)
        if is_behind:
            return first_segment(held, child)
    return ""


def find_gap(
    position: str, held: Collection[str], target: int, histories: Mapping[int, History], size: int
) -> Tuple[str, str]:
    """Return the first missing segment behind `position`, and what is held behind it.

    Both are empty where nothing is missing up to the end of the archive. The other
    arguments are those of find_later.
    """
    way = histories.get(target)
    starts = window.timeline_starts(f"{target:08X}.history", way, size) if way else {}
    for _ in range(len(held) + 1):
        (position,) = window.next_segments(position, 1, size, starts)
        if position not in held:
            break
    later = find_later(position, held, target, histories, size)
    return (position, later) if later else ("", "")


def find_fork(timeline: int, lsn: int, target: int, histories: Mapping[int, History]) -> int:
    """Return the LSN at which `target` left this server's history, 0 if it leads on.

    timeline, lsn: what this server has replayed. It can never follow a timeline that
    was left before: PostgreSQL does not start. Where none of our timelines is known to
    lead there, it is the first LSN of those that do.
    """
    way = histories.get(target)
    if target <= timeline or not way:
        return 0
    ours = [*dict(histories.get(timeline, [])), timeline]
    last_shared, left_at = max(((parent, left) for parent, left in way if parent in ours), default=(0, way[0][1]))
    return 0 if last_shared == timeline and left_at >= lsn else left_at


def find_dead_end(
    asked: int, timeline: int, lsn: int, histories: Mapping[int, History], fetch: Callable[[int], Optional[History]]
) -> int:
    """Return the LSN at which `asked` left this server's history, 0 if it is of use.

    PostgreSQL looks for one timeline after the other until one is missing, and takes
    the last. So one that it cannot follow is of use when one right behind it leads on.
    timeline, lsn: as in find_fork. fetch: returns the history of a timeline, or None.

    >>> archive = {2: [(1, 500)], 3: [(1, 900)]}
    >>> find_dead_end(2, 1, 800, archive, archive.get)
    0
    >>> find_dead_end(2, 1, 800, archive, {}.get)
    500
    """
    left_at = find_fork(timeline, lsn, asked, histories)
    for each in range(asked + 1, asked + 1 + MOST_AHEAD) if left_at else ():
        history = fetch(each)
        if history is None:
            break
        if not find_fork(timeline, lsn, each, {**histories, each: history}):
            return 0
    return left_at


def find_neighbour(name: str, held: Collection[str]) -> str:
    """Return a held segment that can prove whose archive this is, or "".

    For a segment it is the nearest one before it, on its timeline or an older one. For
    a history it is the newest one of an older timeline.
    """
    older = [each for each in held if segment.is_segment_name(each)]
    if segment.is_history_name(name):
        older = [each for each in older if segment.timeline(each) < segment.timeline(name)]
        return max(older, default="")
    older = [each for each in older if each[:8] <= name[:8] and each[8:] < name[8:]]
    return max(older, key=lambda each: (each[8:], each[:8]), default="")


def probes(position: str, histories: Mapping[int, History], size: int) -> List[str]:
    """Return the segments that tell most of an archive that cannot be listed.

    They lie around a missing segment, or where recovery is. size: bytes of a segment.
    """
    own, number = segment.timeline(position), segment.segment_number(position, size)
    wanted = [(own, number + step) for step in (*STEPS, *(-step for step in STEPS))]
    starts = {own + child: number for child in range(1, CHILDREN + 1)}
    for child, switches in histories.items():
        starts.update(window.timeline_starts(f"{child:08X}.history", switches, size))
    for child, start in starts.items():
        wanted += [(child, start + step) for step in CHILD_STEPS if child > own and start >= number]
        wanted += [(child, number - 1)] if child < own else []
    return [segment.segment_name(each, at, size) for each, at in dict.fromkeys(wanted) if at > 0]
