"""Which segments belong in the spool, ahead of replay."""

from typing import Iterable, List

from walbasin import segment

PROBES = (1, 2, 4, 8, 16, 32, 64, 128)


def ahead(requested: str, offered: Iterable[str], spooled: Iterable[str], jobs: int, room: int) -> List[str]:
    """The segments to fetch beside the requested one: of those the archive offers, nearest first.

    The window has `jobs` segments, counting the requested one; at most `room` more fit on the spool's filesystem.
    """
    have = {requested, *spooled}
    missing = [name for name in list(offered)[:jobs] if name not in have]
    return missing[: max(room, 0)]


def unwanted(spooled: Iterable[str], delivered: str, jobs: int, size: int) -> List[str]:
    """What replay cannot want once `delivered` was handed over: other timelines, the past, and beyond the window."""

    def is_wanted(name: str) -> bool:
        distance = segment.position(name, size) - segment.position(delivered, size)
        return segment.timeline(name) == segment.timeline(delivered) and 0 < distance <= jobs

    return [name for name in spooled if not is_wanted(name)]


def beyond(missing: str, size: int) -> List[str]:
    """Where to look for what comes after a missing segment, without asking for every name there could be."""
    number = segment.position(missing, size)
    return [segment.at(segment.timeline(missing), number + step, size) for step in PROBES]
