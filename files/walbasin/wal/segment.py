"""WAL segments and timeline history files: their names, what comes after what, and what a right one looks like.

Layouts are those of PostgreSQL's src/include/access/xlog_internal.h and src/backend/access/transam/timeline.c,
the same from version 10 to 18.
"""

import struct
from typing import List, Optional, Tuple

HEXADECIMAL = "0123456789ABCDEF"
MIB = 1024 * 1024
DEFAULT_SIZE = 16 * MIB
SMALLEST, LARGEST = 1 * MIB, 1024 * MIB
LOG_SIZE = 1 << 32
HISTORY_LIMIT = 1 * MIB

# XLogLongPageHeaderData: magic, info, timeline, page address, remaining length, (alignment), system identifier,
# segment size, block size. WAL is written in the byte order of its machine, and only read on the same kind.
LONG_HEADER = struct.Struct("=HHIQI4xQII")
GOES_ON, HAS_LONG_HEADER = 0x0001, 0x0002
FLAGS = 0x000F
BLOCK_SIZES = [1 << power for power in range(10, 17)]
# Every release changes the low byte; 10 to 18 run from 0xD097 to 0xD118.
MAGIC_RANGE = range(0xD000, 0xE000)


class Invalid(Exception):
    """What came is not the file that was asked for; the text says why."""


def is_segment(name: str) -> bool:
    """True for the 24 hexadecimal digits of a WAL segment."""
    return len(name) == 24 and not name.strip(HEXADECIMAL)


def is_history(name: str) -> bool:
    """True for NNNNNNNN.history."""
    return len(name) == 16 and name.endswith(".history") and not name[:8].strip(HEXADECIMAL)


def is_file(name: str) -> bool:
    """True for the name of anything that is fetched: a WAL segment or a history file."""
    return is_segment(name) or is_history(name)


def timeline(name: str) -> int:
    """The timeline a segment or history file belongs to."""
    return int(name[:8], 16)


def position(name: str, size: int) -> int:
    """How many segments of `size` bytes lie before this one."""
    return int(name[8:16], 16) * (LOG_SIZE // size) + int(name[16:24], 16)


def at(timeline_id: int, number: int, size: int) -> str:
    """The name of segment `number` (see position) on a timeline."""
    log, low = divmod(number, LOG_SIZE // size)
    return f"{timeline_id:08X}{log:08X}{low:08X}"


def verify_segment(name: str, header: bytes, length: int, system_identifier: Optional[int]) -> int:
    """The segment size in bytes, when a file of `length` bytes that begins with `header` is segment `name`.

    system_identifier is the cluster's, or None where it is not known. Raises Invalid.
    """
    if len(header) < LONG_HEADER.size:
        raise Invalid(f"{length} bytes, too short for a WAL segment{_beginning(header)}")
    magic, info, page_timeline, address, remaining, origin, size, block_size = LONG_HEADER.unpack_from(header)
    if magic not in MAGIC_RANGE or not info & HAS_LONG_HEADER:
        raise Invalid(f"it does not begin with a WAL page header{_beginning(header)}")
    # The rest of a record of the page before comes first exactly when the flag says so.
    if info & ~FLAGS or bool(info & GOES_ON) != bool(remaining) or block_size not in BLOCK_SIZES:
        raise Invalid(f"its first page header is damaged{_beginning(header)}")
    if size & (size - 1) or not SMALLEST <= size <= LARGEST:
        raise Invalid(f"its header gives an impossible segment size, {size} bytes")
    if length != size:
        raise Invalid(f"{length} bytes where a segment has {size}")
    if address != position(name, size) * size:
        raise Invalid(f"its first page belongs at {address >> 32:X}/{address & 0xFFFFFFFF:X}, which is another segment")
    if page_timeline > timeline(name):
        raise Invalid(f"it was written on timeline {page_timeline}, newer than its name")
    if system_identifier is not None and origin != system_identifier:
        raise Invalid(f"it is of another cluster (system identifier {origin}, ours is {system_identifier})")
    return int(size)


def _beginning(content: bytes) -> str:
    """What was there instead: a login message is told at a glance."""
    return f" (first bytes: {content[:16]!r})" if content else ""


def history(name: str, text: bytes) -> List[Tuple[int, int]]:
    """The (parent timeline, switch LSN) pairs of history file `name`, oldest first. Raises Invalid."""
    switches: List[Tuple[int, int]] = []
    if len(text) > HISTORY_LIMIT:
        raise Invalid(f"longer than any timeline history, which have {HISTORY_LIMIT} bytes at most")
    for line in text.decode("utf-8", "replace").split("\n"):
        fields = line.split(None, 2)
        if not fields or fields[0].startswith("#"):
            continue
        try:
            parent, (high, low) = _number(fields[0], 10), (_number(part, 16) for part in fields[1].split("/"))
        except (ValueError, IndexError):
            raise Invalid(f"not a timeline history: {line[:60]!r}") from None
        if not (switches[-1][0] if switches else 0) < parent < timeline(name):
            raise Invalid(f"timeline {parent} cannot be an ancestor here: {line[:60]!r}")
        switches.append((parent, (high << 32) + low))
    if not switches:
        raise Invalid("a timeline history without a single entry")
    return switches


def _number(text: str, base: int) -> int:
    """An unsigned number of 32 bits, as C reads it. Raises ValueError."""
    if not text.isascii() or not text.isalnum() or len(text) > 10:
        raise ValueError
    number = int(text, base)
    if number >> 32:
        raise ValueError
    return number
