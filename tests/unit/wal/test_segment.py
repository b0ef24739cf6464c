import pytest
from hypothesis import given
from hypothesis import strategies as st
from walbasin.wal import segment

from tests.support.wal_builder import FOREIGN, MAGIC, MIB, OURS, XLP_FIRST_IS_CONTRECORD, XLP_LONG_HEADER, build_header

SIZES = [1 << exponent for exponent in range(20, 31)]


@pytest.mark.parametrize(
    ("name", "is_segment_name", "is_history_name"),
    [
        ("000000010000000000000001", True, False),
        ("FFFFFFFF00000ABC000000FF", True, False),
        ("00000002.history", False, True),
        ("000000FF.history", False, True),
        ("00000001000000000000000a", False, False),  # PostgreSQL writes capitals only
        ("00000001000000000000001", False, False),
        ("0000000100000000000000001", False, False),
        ("000000010000000000000001\n", False, False),
        ("000000010000000000000001.partial", False, False),
        ("000000010000000000000002.00000028.backup", False, False),
        ("../../0010000000000000001", False, False),
        ("0000000g.history", False, False),
        ("0000002.history", False, False),
        ("00000002.historY", False, False),
        ("00000002.history\n", False, False),
        ("00000002_history", False, False),
        ("", False, False),
        ("RECOVERYXLOG", False, False),
    ],
)
def test_name_grammar(name: str, is_segment_name: bool, is_history_name: bool) -> None:
    assert (segment.is_segment_name(name), segment.is_history_name(name)) == (is_segment_name, is_history_name)


@pytest.mark.parametrize(
    ("name", "size", "lsn"),
    [  # as pg_walfile_name() returns them
        ("000000010000000000000001", 16 * MIB, 0x0_0100_0000),
        ("0000000100000000000000FF", 16 * MIB, 0x0_FF00_0000),
        ("000000010000000100000000", 16 * MIB, 0x1_0000_0000),
        ("0000000A0000002A0000007B", 16 * MIB, 0x2A_7B00_0000),
        ("000000010000000000000FFF", 1 * MIB, 0x0_FFF0_0000),
        ("000000010000000100000000", 1 * MIB, 0x1_0000_0000),
        ("000000010000000000000003", 1024 * MIB, 0x0_C000_0000),
        ("000000010000000100000001", 1024 * MIB, 0x1_4000_0000),
    ],
)
def test_segment_number(name: str, size: int, lsn: int) -> None:
    assert segment.segment_number(name, size) == lsn // size
    assert segment.segment_name(segment.timeline(name), lsn // size, size) == name


@pytest.mark.parametrize(
    ("name", "size", "following"),
    [
        ("000000010000000000000001", 16 * MIB, "000000010000000000000002"),
        ("0000000200000000000000FF", 16 * MIB, "000000020000000100000000"),
        ("000000010000000000000003", 1024 * MIB, "000000010000000100000000"),
        ("0000000100000000000000FF", 1 * MIB, "000000010000000000000100"),
        ("000000010000000000000FFF", 1 * MIB, "000000010000000100000000"),
        ("00000003000000090000003F", 64 * MIB, "000000030000000A00000000"),
    ],
)
def test_next_segment_number(name: str, size: int, following: str) -> None:
    assert segment.segment_name(segment.timeline(name), segment.segment_number(name, size) + 1, size) == following


@given(timeline=st.integers(1, 2**32 - 1), lsn=st.integers(0, 2**64 - 1), size=st.sampled_from(SIZES))
def test_name_round_trip(timeline: int, lsn: int, size: int) -> None:
    name = segment.segment_name(timeline, lsn // size, size)
    assert segment.is_segment_name(name)
    assert (segment.timeline(name), segment.segment_number(name, size)) == (timeline, lsn // size)


NAME = "000000030000000200000005"


def at_name(size: int) -> int:
    """Return the address of the segment NAME."""
    return (2 << 32) + 5 * size


@pytest.mark.parametrize("size", [size for size in SIZES if size <= 512 * MIB])
def test_segment_sizes(size: int) -> None:
    good = build_header(3, at_name(size), size=size)
    assert segment.verify_segment(NAME, good, size, OURS) == size


@pytest.mark.parametrize("version", MAGIC)
def test_versions(version: int) -> None:
    good = build_header(3, at_name(MIB), size=MIB, magic=MAGIC[version])
    assert segment.verify_segment(NAME, good, MIB, OURS) == MIB


@pytest.mark.parametrize("timeline", [1, 2, 3])
def test_first_page_of_parent_timeline(timeline: int) -> None:
    assert segment.verify_segment(NAME, build_header(timeline, at_name(MIB), size=MIB), MIB, OURS)


def test_continued_record() -> None:
    info = XLP_LONG_HEADER | XLP_FIRST_IS_CONTRECORD
    good = build_header(3, at_name(MIB), size=MIB, info=info, remaining=4711)
    assert segment.verify_segment(NAME, good, MIB, OURS)


@pytest.mark.parametrize("size", [MIB, 16 * MIB, 512 * MIB])
def test_flipped_header_bit(size: int) -> None:
    """Notice each flipped bit, with four exceptions.

    They are bits of the version, of the flags, of an older timeline and of the padding.
    PostgreSQL checks the version and the timeline.
    """
    good = build_header(3, at_name(size), size=size)
    missed = set()
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            segment.verify_segment(NAME, bytes(flipped), size, OURS)
        except segment.InvalidWal:
            continue
        missed.add(bit // 8)
    magic, info, timeline, padding = {0, 1}, {2}, {4}, set(range(20, 24))
    assert missed <= magic | info | timeline | padding


def test_origin_not_checked() -> None:
    assert segment.verify_segment(NAME, build_header(3, at_name(MIB), FOREIGN, MIB), MIB, None) == MIB


GOOD = build_header(3, at_name(16 * MIB))


@pytest.mark.parametrize(
    ("start", "length", "cause"),
    [
        (b"", 0, "too short"),
        (GOOD[:39], 39, "too short"),
        (GOOD, 16 * MIB - 1, "16777215 bytes where a segment has 16777216"),
        (GOOD, 16 * MIB + 1, "bytes where a segment has"),
        (GOOD, MIB, "bytes where a segment has"),
        (bytes(40), 16 * MIB, "WAL page header"),
        (b"\xff" * 40, 16 * MIB, "WAL page header"),
        (b"-bash: barman: command not found, so nothing here", 16 * MIB, "WAL page header"),
        (b"Welcome to barman, authorized use only. Have a nice day.", 56, "b'Welcome to barma'"),
        (build_header(3, at_name(16 * MIB), info=0), 16 * MIB, "WAL page header"),
        (build_header(3, at_name(16 * MIB), info=XLP_LONG_HEADER | 0x10), 16 * MIB, "damaged"),
        (build_header(3, at_name(16 * MIB), info=XLP_LONG_HEADER | XLP_FIRST_IS_CONTRECORD), 16 * MIB, "damaged"),
        (build_header(3, at_name(16 * MIB), remaining=1), 16 * MIB, "damaged"),
        (build_header(3, at_name(16 * MIB), block_size=8193), 16 * MIB, "damaged"),
        (build_header(3, at_name(16 * MIB), size=0), 0, "segment size"),
        (build_header(3, at_name(16 * MIB), size=3 * MIB), 3 * MIB, "segment size"),
        (build_header(3, at_name(16 * MIB), size=MIB // 2), MIB // 2, "segment size"),
        (build_header(3, at_name(16 * MIB), size=2048 * MIB), 2048 * MIB, "segment size"),
        (build_header(3, at_name(16 * MIB) + 16 * MIB), 16 * MIB, "2/6000000, which is another segment"),
        (build_header(3, at_name(16 * MIB) + 8192), 16 * MIB, "another segment"),
        (build_header(4, at_name(16 * MIB)), 16 * MIB, "timeline 4, newer"),
        (build_header(3, at_name(16 * MIB), FOREIGN), 16 * MIB, "another cluster"),
    ],
)
def test_wrong_segment(start: bytes, length: int, cause: str) -> None:
    with pytest.raises(segment.InvalidWal, match=cause):
        segment.verify_segment(NAME, start, length, OURS)


@pytest.mark.parametrize("size", [1, 8, 32, 64, 512])
def test_segment_of_another_size(size: int) -> None:
    """Refuse what is whole and right for a cluster with other segments."""
    theirs = build_header(3, at_name(size * MIB), size=size * MIB)
    with pytest.raises(segment.InvalidWal, match=f"segments of {size} MiB, and this cluster's have 16 MiB"):
        segment.verify_segment(NAME, theirs, size * MIB, OURS, 16 * MIB)
    assert segment.verify_segment(NAME, GOOD, 16 * MIB, OURS, 16 * MIB) == 16 * MIB


@pytest.mark.parametrize(
    ("name", "size", "longest"),
    [
        (NAME, 16 * MIB, 16 * MIB),
        (NAME, None, 1024 * MIB),
        ("00000002.history", 16 * MIB, MIB),
        ("00000002.history", None, MIB),
    ],
)
def test_longest_file(name: str, size: int | None, longest: int) -> None:
    assert segment.longest_file(name, size) == longest


def test_other_byte_order() -> None:
    swapped = GOOD[1::-1] + GOOD[2:]
    with pytest.raises(segment.InvalidWal):
        segment.verify_segment(NAME, swapped, 16 * MIB, OURS)


def test_history() -> None:
    text = (
        b"1\t0/5000148\tno recovery target specified\n"
        b"\n"
        b"# a comment, as timeline.c allows\n"
        b'3\t2A/FF0000A0\tat restore point "before the mistake"\n'
    )
    assert segment.parse_history("00000004.history", text) == [(1, 0x0_0500_0148), (3, 0x2A_FF00_00A0)]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"# nothing but a comment\n",
        b"ERROR: WAL file not found\n",
        b"1\n",
        b"1\t5000148\treason\n",
        b"1\t0/XYZ\treason\n",
        b"1\t0/1/2\treason\n",
        b"0\t0/5000148\treason\n",
        b"4\t0/5000148\tits own parent\n",
        b"9\t0/5000148\tits own descendant\n",
        b"2\t0/5000148\treason\n1\t0/6000000\tnot increasing\n",
        bytes(16 * 1024),
        b"\xff\xfe\x00garbage\n",
        b"1_0\t0/5000148\treason\n",
        b"-1\t0/5000148\treason\n",
        "\u0661\t0/5000148\tan Arabic one\n".encode(),
        b"1\t0/100000000\tlonger than 32 bits\n",
        b"#" * (segment.HISTORY_LIMIT + 1),
    ],
)
def test_wrong_history(text: bytes) -> None:
    with pytest.raises(segment.InvalidWal):
        segment.parse_history("00000004.history", text)
