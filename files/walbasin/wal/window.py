"""Which segments belong in the spool, ahead of replay."""

import itertools
from typing import Container, Dict, Iterable, List, Mapping, Tuple

from walbasin.wal import segment

PROBES = (1, 2, 4, 8, 16, 32, 64, 128)


def ahead(requested: str, offered: Iterable[str], spooled: Iterable[str], jobs: int, room: int) -> List[str]:
    """The segments to fetch beside the requested one: of those the archive offers, nearest first.

    The window has `jobs` segments, counting the requested one; at most `room` more fit on the spool's filesystem.
    """
    have = {requested, *spooled}
    missing = [name for name in list(offered)[:jobs] if name not in have]
    return missing[: max(room, 0)]


def beginnings(name: str, switches: List[Tuple[int, int]], size: int) -> Dict[int, int]:
    """timeline -> the segment it begins in, counted in segments, along history file `name` (see segment.history)."""
    starts = {switches[0][0]: 0}
    for (_parent, lsn), child in zip(switches, [*(parent for parent, _ in switches[1:]), segment.timeline(name)]):
        starts[child] = lsn // size
    return starts


def following(name: str, jobs: int, size: int, starts: Mapping[int, int]) -> List[str]:
    """The `jobs` segments that replay wants after `name`.

    starts is the newest history known, as `beginnings` gives it: the segment in which a timeline begins is asked for
    under the new timeline's name (xlogrecovery.c, XLogFileReadAnyTLI).
    """
    own, first = segment.timeline(name), segment.position(name, size) + 1

    def timeline_at(number: int) -> int:
        reached = [timeline for timeline, start in starts.items() if timeline > own and start <= number]
        return max(reached, default=own) if own in starts else own

    return [segment.at(timeline_at(number), number, size) for number in range(first, first + jobs)]


def before(name: str, count: int, size: int) -> List[str]:
    """The `count` segments before this one on its timeline, the nearest first, as far as there are any."""
    number = segment.position(name, size)
    return [segment.at(segment.timeline(name), number - step, size) for step in range(1, min(count + 1, number))]


def next_to_fetch(
    wanted: Iterable[str],
    absent: Container[str],
    spooled: Container[str],
    under_way: Mapping[str, bool],
    trusted: int,
) -> List[str]:
    """Of the wanted segments, in order, those to ask the archive for now: none beyond one that it did not have.

    under_way: what was asked for, and whether it has begun to arrive. trusted: how many segments the archive has had
    since it last had none; as many may be asked for on the chance.
    """
    reachable = itertools.takewhile(lambda name: name not in absent, wanted)
    missing = [name for name in reachable if name not in spooled and name not in under_way]
    unanswered = sum(not arrives for arrives in under_way.values())
    return missing[: max(0, trusted - unanswered)]


def beyond(missing: str, size: int, histories: Iterable[Mapping[int, int]]) -> List[List[str]]:
    """Where to look for what comes after a missing segment, without asking for every name there could be.

    On its own timeline, and then on those that begin later along a history (see `beginnings`): a primary that died
    has not archived all that its successor has replayed, and nobody else does.
    """
    own, number = segment.timeline(missing), segment.position(missing, size)
    last_before = {own: number}
    for starts in histories:
        if own in starts:
            last_before.update({each: start - 1 for each, start in starts.items() if each > own and start > number})
    return [[segment.at(each, last + step, size) for step in PROBES] for each, last in sorted(last_before.items())]
