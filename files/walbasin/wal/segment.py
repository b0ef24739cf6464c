"""Name and verify WAL segments and timeline history files.

Layouts are those of PostgreSQL's src/include/access/xlog_internal.h and
src/backend/access/transam/timeline.c, the same from version 10 to 18.
"""

import re
import struct
import sys
from typing import BinaryIO, List, Literal, Optional, Tuple

# The digits of names; PostgreSQL writes capitals only.
HEXADECIMAL = "0123456789ABCDEF"
# Bytes.
MIB = 1024 * 1024
DEFAULT_SIZE = 16 * MIB
SMALLEST, LARGEST = 1 * MIB, 1024 * MIB
# Bytes of WAL that share the middle eight digits of a segment's name.
LOG_SIZE = 1 << 32
# Bytes of a history file, more than any real one has.
HISTORY_LIMIT = 1 * MIB
# How a history file begins: a timeline, a comment, or nothing, in a line of its own.
HISTORY_START = re.compile(rb"\s*(?:#|[0-9]+(?:\s|$)|$)")

# XLogLongPageHeaderData: magic, info, timeline, page address, remaining length,
# (alignment), system identifier, segment size, block size. WAL is written in the
# byte order of its machine, and only read on the same kind.
LONG_HEADER = struct.Struct("=HHIQI4xQII")
# XLP_FIRST_IS_CONTRECORD, XLP_LONG_HEADER, and all flags that there are.
IS_CONTINUATION, HAS_LONG_HEADER = 0x0001, 0x0002
FLAGS = 0x000F
BLOCK_SIZES = [1 << power for power in range(10, 17)]
# Every release changes the low byte; 10 to 18 run from 0xD097 to 0xD118.
MAGIC_RANGE = range(0xD000, 0xE000)
# Bytes of the magic and the flags, with which a page begins.
PAGE_START = 4


class InvalidWal(Exception):
    """Report that what came is not the file that was asked for; the text says why."""


class ForeignWal(InvalidWal):
    """Report that what came is of another cluster."""


def is_segment_name(name: str) -> bool:
    """Return whether a name has the 24 hexadecimal digits of a WAL segment.

    >>> is_segment_name("00000001000000000000000A"), is_segment_name("00000002.history")
    (True, False)
    """
    return len(name) == 24 and not name.strip(HEXADECIMAL)


def is_history_name(name: str) -> bool:
    """Return whether a name is NNNNNNNN.history.

    >>> is_history_name("00000002.history"), is_history_name("2.history")
    (True, False)
    """
    return len(name) == 16 and name.endswith(".history") and not name[:8].strip(HEXADECIMAL)


def is_wal_file_name(name: str) -> bool:
    """Return whether a name is that of a segment or a history file."""
    return is_segment_name(name) or is_history_name(name)


def is_segment_size(size: int) -> bool:
    """Return whether segments can have that many bytes.

    >>> is_segment_size(16 * MIB), is_segment_size(3 * MIB)
    (True, False)
    """
    return SMALLEST <= size <= LARGEST and not size & (size - 1)


def longest_file(name: str, size: Optional[int]) -> int:
    """Return the bytes that a segment or history file can have, not compressed.

    size: of this cluster's segments, in bytes; None where it is not known.
    """
    if is_history_name(name):
        return HISTORY_LIMIT
    return LARGEST if size is None else size


def timeline(name: str) -> int:
    """Return the timeline of a segment or history file.

    >>> timeline("0000000200000000000000FF"), timeline("0000000A.history")
    (2, 10)
    """
    return int(name[:8], 16)


def segment_number(name: str, size: int) -> int:
    """Return how many segments of `size` bytes lie before this one.

    >>> segment_number("000000010000000100000000", 16 * MIB)
    256
    """
    return int(name[8:16], 16) * (LOG_SIZE // size) + int(name[16:24], 16)


def segment_name(timeline_id: int, number: int, size: int) -> str:
    """Return the name of segment `number` (see segment_number) on a timeline.

    >>> segment_name(1, 256, 16 * MIB)
    '000000010000000100000000'
    """
    log, low = divmod(number, LOG_SIZE // size)
    return f"{timeline_id:08X}{log:08X}{low:08X}"


def format_lsn(lsn: int) -> str:
    """Return a position in WAL as PostgreSQL writes it.

    >>> format_lsn((1 << 32) + 0xABC)
    '1/ABC'
    """
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def may_be_plain(name: str, start: bytes) -> bool:
    """Return whether a segment or history file can begin so: nothing is done to it yet.

    start: at least its first bytes, in the byte order of any machine.

    >>> little, big = b"\\x10\\xd1\\2\\0", b"\\xd1\\x10\\0\\2"
    >>> [may_be_plain("0" * 24, start) for start in (little, big, b"WALX")]
    [True, True, False]
    >>> [may_be_plain("00000002.history", start) for start in (b"1\\t0/30", b"7z")]
    [True, False]
    """
    if is_history_name(name):
        return not start or HISTORY_START.match(start) is not None
    return len(start) < PAGE_START or any(_begins_page(start, order) for order in ("little", "big"))


def _begins_page(start: bytes, order: Literal["little", "big"]) -> bool:
    magic, info = (int.from_bytes(start[each : each + 2], order) for each in (0, 2))
    return magic in MAGIC_RANGE and bool(info & HAS_LONG_HEADER) and not info & ~FLAGS


def verify_header(
    name: str, header: bytes, system_identifier: Optional[int], expected_size: Optional[int] = None
) -> int:
    """Return the segment size in bytes that a valid segment's header gives.

    header: the first bytes of the file; system_identifier, expected_size: the
    cluster's, or None where it is not known. Raises InvalidWal unless it is that of
    segment `name` of this cluster.
    """
    if len(header) < LONG_HEADER.size:
        raise InvalidWal(f"{len(header)} bytes, too short for a WAL segment{_first_bytes(header)}")
    magic, info, page_timeline, address, remaining, origin, size, block_size = LONG_HEADER.unpack_from(header)
    if magic not in MAGIC_RANGE or not info & HAS_LONG_HEADER:
        raise InvalidWal(f"it does not begin with a WAL page header{_first_bytes(header)}")
    # The flag and the remaining length belong together: the rest of a record of the
    # page before comes first exactly when the flag says so.
    if info & ~FLAGS or bool(info & IS_CONTINUATION) != bool(remaining) or block_size not in BLOCK_SIZES:
        raise InvalidWal(f"its first page header is damaged{_first_bytes(header)}")
    if not is_segment_size(size):
        raise InvalidWal(f"its header gives an impossible segment size, {size} bytes")
    if expected_size is not None and size != expected_size:
        theirs, ours = size // MIB, expected_size // MIB
        raise InvalidWal(f"it is of a cluster with segments of {theirs} MiB, and this cluster's have {ours} MiB")
    if address != segment_number(name, size) * size:
        raise InvalidWal(f"its first page belongs at {format_lsn(address)}, which is another segment")
    if page_timeline > timeline(name):
        raise InvalidWal(f"it was written on timeline {page_timeline}, newer than its name")
    if system_identifier is not None and origin != system_identifier:
        raise ForeignWal(f"it is of another cluster (system identifier {origin}, ours is {system_identifier})")
    return int(size)


def verify_segment(
    name: str, header: bytes, length: int, system_identifier: Optional[int], expected_size: Optional[int] = None
) -> int:
    """Return the segment size in bytes, as verify_header does.

    length: the size of the file in bytes. Raises InvalidWal unless the file is segment
    `name` of this cluster, and whole.
    """
    size = verify_header(name, header, system_identifier, expected_size)
    if length != size:
        raise InvalidWal(f"{length} bytes where a segment has {size}")
    return size


def last_page(file: BinaryIO, name: str, size: int) -> Tuple[int, bytes]:
    """Return where the last page of a segment begins that was written, and the page.

    The position is relative to the segment; -1 where none was. Behind the last page a
    file has zeros, or what was there when it had another name.
    """
    block_size = LONG_HEADER.unpack(file.read(LONG_HEADER.size).ljust(LONG_HEADER.size, b"\0"))[-1]
    begin, last, page = segment_number(name, size) * size, -1, b""
    for offset in range(0, size, block_size) if block_size >= LONG_HEADER.size else ():
        file.seek(offset)
        found = file.read(block_size)
        if int.from_bytes(found[8:16], sys.byteorder) != begin + offset:
            break
        last, page = offset, found
    return last, page


def _first_bytes(content: bytes) -> str:
    """Show what was there instead: a login message is recognised at a glance."""
    return f" (first bytes: {content[:16]!r})" if content else ""


def parse_history(name: str, text: bytes) -> List[Tuple[int, int]]:
    """Return the (parent timeline, switch LSN) pairs of a history file, oldest first.

    Raises InvalidWal.

    >>> parse_history("00000003.history", b"1\\t0/3000000\\n2\\t0/5000000\\tno reason")
    [(1, 50331648), (2, 83886080)]
    """
    switches: List[Tuple[int, int]] = []
    if len(text) > HISTORY_LIMIT:
        raise InvalidWal(f"longer than any timeline history, which have {HISTORY_LIMIT} bytes at most")
    for line in text.decode("utf-8", "replace").split("\n"):
        fields = line.split(None, 2)
        if not fields or fields[0].startswith("#"):
            continue
        try:
            parent, (high, low) = _unsigned(fields[0], 10), (_unsigned(part, 16) for part in fields[1].split("/"))
        except (ValueError, IndexError):
            raise InvalidWal(f"not a timeline history: {line[:60]!r}") from None
        if not (switches[-1][0] if switches else 0) < parent < timeline(name):
            raise InvalidWal(f"timeline {parent} cannot be an ancestor here: {line[:60]!r}")
        switches.append((parent, (high << 32) + low))
    if not switches:
        raise InvalidWal("a timeline history without a single entry")
    return switches


def _unsigned(text: str, base: int) -> int:
    """Return an unsigned number of 32 bits, as C reads it. Raises ValueError."""
    if not text.isascii() or not text.isalnum() or len(text) > 10:
        raise ValueError
    number = int(text, base)
    if number >> 32:
        raise ValueError
    return number
