"""Decide which segments belong in the spool, ahead of replay."""

import itertools
from typing import Container, Dict, Iterable, List, Mapping, Tuple

from walbasin.wal import segment


def offered_to_fetch(
    requested: str, offered: Iterable[str], spooled: Iterable[str], jobs: int, free_segments: int
) -> List[str]:
    """Return the segments to fetch beside the requested one, nearest first.

    offered: those that the archive has. The window has `jobs` segments, counting the
    requested one. At most `free_segments` more fit on the spool's filesystem.

    >>> offered_to_fetch("A", ["A", "B", "C", "D"], ["B"], jobs=4, free_segments=1)
    ['C']
    """
    have = {requested, *spooled}
    missing = [name for name in list(offered)[:jobs] if name not in have]
    return missing[: max(free_segments, 0)]


def timeline_starts(name: str, switches: List[Tuple[int, int]], size: int) -> Dict[int, int]:
    """Return the number of the segment in which each timeline of a history begins.

    switches: what segment.parse_history gave for history file `name`.

    >>> timeline_starts("00000003.history", [(1, 0x3000000), (2, 0x5000000)], 16 << 20)
    {1: 0, 2: 3, 3: 5}
    """
    starts = {switches[0][0]: 0}
    for (_parent, lsn), child in zip(switches, [*(parent for parent, _ in switches[1:]), segment.timeline(name)]):
        starts[child] = lsn // size
    return starts


def next_segments(name: str, count: int, size: int, starts: Mapping[int, int]) -> List[str]:
    """Return the `count` segments that replay wants after segment `name`.

    starts: the newest history that is known (see timeline_starts). PostgreSQL asks for
    the segment in which a timeline begins under the new timeline's name
    (xlogrecovery.c, XLogFileReadAnyTLI).

    >>> next_segments("000000010000000000000002", 2, 16 << 20, {1: 0, 2: 4})
    ['000000010000000000000003', '000000020000000000000004']
    """
    own, first = segment.timeline(name), segment.segment_number(name, size) + 1

    def timeline_at(number: int) -> int:
        reached = [timeline for timeline, start in starts.items() if timeline > own and start <= number]
        return max(reached, default=own) if own in starts else own

    return [segment.segment_name(timeline_at(number), number, size) for number in range(first, first + count)]


def previous_segments(name: str, count: int, size: int) -> List[str]:
    """Return up to `count` segments before this one on its timeline, the nearest first.

    >>> previous_segments("000000010000000000000003", 5, 16 << 20)
    ['000000010000000000000002', '000000010000000000000001']
    """
    number = segment.segment_number(name, size)
    return [
        segment.segment_name(segment.timeline(name), number - step, size) for step in range(1, min(count + 1, number))
    ]


def next_to_fetch(
    wanted: Iterable[str],
    absent: Container[str],
    spooled: Container[str],
    in_flight: Mapping[str, bool],
    lookahead_credit: int,
) -> List[str]:
    """Return the wanted segments to ask the archive for now, in order.

    None comes after one that the archive did not have. in_flight: what was asked for,
    and whether its first byte is here. lookahead_credit: how many segments the archive
    has had since it last had none; as many may be asked for without knowing.
    """
    reachable = itertools.takewhile(lambda name: name not in absent, wanted)
    missing = [name for name in reachable if name not in spooled and name not in in_flight]
    unanswered = sum(not has_first_byte for has_first_byte in in_flight.values())
    return missing[: max(0, lookahead_credit - unanswered)]
