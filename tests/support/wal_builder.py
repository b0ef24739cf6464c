"""Build WAL and data directories by hand.

Source: PostgreSQL's src/include/access/xlog_internal.h and pg_control.h. The code under
test computes nothing of this. tests/integration compares it with what a real server
writes.
"""

import struct
import sys
from pathlib import Path

MIB = 1 << 20
# The system identifiers of the cluster that most tests use, and of another one.
OURS, FOREIGN = 7405000000000000001, 7405000000000000002

# XLOG_PAGE_MAGIC of each major version.
MAGIC = {
    10: 0xD097,
    11: 0xD098,
    12: 0xD101,
    13: 0xD106,
    14: 0xD10D,
    15: 0xD110,
    16: 0xD113,
    17: 0xD116,
    18: 0xD118,
}
XLP_FIRST_IS_CONTRECORD, XLP_LONG_HEADER = 0x0001, 0x0002


def number(value: int, size: int) -> bytes:
    """Return an unsigned integer in the machine's own byte order, as C writes it."""
    return value.to_bytes(size, sys.byteorder)


def build_header(
    timeline: int = 1,
    address: int = 0x0100_0000,
    system_identifier: int = OURS,
    size: int = 16 * MIB,
    magic: int = MAGIC[15],
    info: int = XLP_LONG_HEADER,
    remaining: int = 0,
    block_size: int = 8192,
) -> bytes:
    """Return an XLogLongPageHeaderData."""
    standard = number(magic, 2) + number(info, 2) + number(timeline, 4) + number(address, 8) + number(remaining, 4)
    padding = bytes(4)  # MAXALIGN
    return standard + padding + number(system_identifier, 8) + number(size, 4) + number(block_size, 4)


def build_segment(name: str, system_identifier: int = OURS, size: int = MIB, timeline: int = 0) -> bytes:
    """Return a whole segment.

    timeline: that of the first page; 0: the timeline of the name.
    """
    address = (int(name[8:16], 16) << 32) + int(name[16:24], 16) * size
    start = build_header(timeline or int(name[:8], 16), address, system_identifier, size)
    return (start + bytes(range(256)) * (size // 256))[:size]


# Offset of floatFormat in pg_control of each major version where it is not 208.
FLOAT_FORMAT_AT = {11: 200}


def build_control(version: int, system_identifier: int, segment_size: int = 0) -> bytes:
    """Return a pg_control. segment_size: in bytes, 0 for one that does not tell."""
    start = number(system_identifier, 8)
    if segment_size:
        sizes = b"".join(number(value, 4) for value in (8192, 131072, 8192, segment_size))
        start = start.ljust(FLOAT_FORMAT_AT.get(version, 208), b"\0") + struct.pack("=d", 1234567.0) + sizes
    return start.ljust(8192, b"\0")


def build_data_directory(
    folder: Path, version: int = 15, system_identifier: int = OURS, *files: str, segment_size: int = 0
) -> Path:
    """Build a data directory with what the fetcher reads of one.

    files: the names of empty files in it, such as signal files. segment_size: see
    build_control.
    """
    (folder / "global").mkdir(parents=True)
    (folder / "pg_wal").mkdir()
    (folder / "PG_VERSION").write_text(f"{version}\n")
    (folder / "global" / "pg_control").write_bytes(build_control(version, system_identifier, segment_size))
    for file in files:
        (folder / file).touch()
    return folder
