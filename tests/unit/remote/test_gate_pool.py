import pytest
from walbasin.remote.gate_pool import Progress, SegmentTiming, is_stalled, tune_connections

from tests.support.wal_builder import MIB

ALONE = 0.45


@pytest.mark.parametrize(
    ("what", "now", "most", "timing", "size", "expected"),
    [
        ("a round trip of 50 ms", 1, 8, SegmentTiming(ALONE, 1, ALONE, 0.05), 16 * MIB, 2),
        ("two do not slow down each other", 2, 8, SegmentTiming(0.46, 2, ALONE, 0.05), 16 * MIB, 4),
        ("and so on", 4, 8, SegmentTiming(0.5, 4, ALONE, 0.05), 16 * MIB, 8),
        ("no more than there may be", 4, 6, SegmentTiming(0.5, 4, ALONE, 0.05), 16 * MIB, 6),
        ("they share the bandwidth", 2, 8, SegmentTiming(0.9, 2, ALONE, 0.05), 16 * MIB, 2),
        ("the second is not at work yet", 2, 8, SegmentTiming(ALONE, 1, ALONE, 0.05), 16 * MIB, 2),
        ("loopback", 1, 8, SegmentTiming(0.03, 1, 0.03, 0.001), 16 * MIB, 1),
        ("a slow link that is near", 1, 8, SegmentTiming(1.3, 1, 1.3, 0.02), 16 * MIB, 1),
        ("processors that are busy", 1, 8, SegmentTiming(0.4, 1, 0.3, 0.02), 16 * MIB, 1),
        ("small segments at 50 ms: fast enough", 1, 8, SegmentTiming(0.06, 1, 0.06, 0.05), MIB, 1),
        ("large segments at 10 ms", 1, 8, SegmentTiming(0.5, 1, 0.5, 0.01), 64 * MIB, 2),
    ],
)
def test_tune_connections(what: str, now: int, most: int, timing: SegmentTiming, size: int, expected: int) -> None:
    assert tune_connections(now, most, timing, size) == expected, what


@pytest.mark.parametrize(
    ("what", "progress", "expected"),
    [
        ("alone, however slow", Progress(0, 900, 1e3, []), False),
        ("silent while others speak", Progress(6, 6, 1e6, []), True),
        ("a moment of silence", Progress(4, 4, 1e6, [1e7]), False),
        ("crawling beside one that brings", Progress(0, 6, 1e5, [1e7]), True),
        ("not for long yet", Progress(0, 4, 1e5, [1e7]), False),
        ("half as fast", Progress(0, 60, 1e6, [2e6]), False),
        ("no slower than the slowest of the others", Progress(0, 60, 1e6, [2e6, 9e9]), False),
    ],
)
def test_stalled_connection(what: str, progress: Progress, expected: bool) -> None:
    assert is_stalled(progress) == expected, what
