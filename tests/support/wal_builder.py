"""WAL and data directories made by hand, from PostgreSQL's src/include/access/xlog_internal.h and pg_control.h.

Nothing here is computed by the code under test; tests/integration checks it against what a real server writes.
"""

import sys
from pathlib import Path

MIB = 1 << 20
# The system identifier of the cluster that most tests are about, and of another one.
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
    """An unsigned integer in the machine's own byte order, as C writes it."""
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
    """XLogLongPageHeaderData."""
    standard = number(magic, 2) + number(info, 2) + number(timeline, 4) + number(address, 8) + number(remaining, 4)
    padding = bytes(4)  # MAXALIGN
    return standard + padding + number(system_identifier, 8) + number(size, 4) + number(block_size, 4)


def build_segment(name: str, system_identifier: int = OURS, size: int = MIB, timeline: int = 0) -> bytes:
    """A whole segment `name`; timeline is that of its first page, if it is not the name's."""
    address = (int(name[8:16], 16) << 32) + int(name[16:24], 16) * size
    start = build_header(timeline or int(name[:8], 16), address, system_identifier, size)
    return (start + bytes(range(256)) * (size // 256))[:size]


def build_data_directory(folder: Path, version: int = 15, system_identifier: int = OURS, *files: str) -> Path:
    """A PGDATA with what the fetcher reads of one; `files` are empty files in it, such as signal files."""
    (folder / "global").mkdir(parents=True)
    (folder / "pg_wal").mkdir()
    (folder / "PG_VERSION").write_text(f"{version}\n")
    (folder / "global" / "pg_control").write_bytes(number(system_identifier, 8) + bytes(8184))
    for file in files:
        (folder / file).touch()
    return folder
