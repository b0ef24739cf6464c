from hypothesis import given
from hypothesis import strategies as st
from walbasin.wal import window

from tests.support.wal_builder import MIB

SIZE = 16 * MIB


def names(*numbers: int, timeline: int = 1) -> list[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in numbers]


def test_nearest_segments_first() -> None:
    assert window.offered_to_fetch(names(5)[0], names(5, 6, 7, 8, 9), [], jobs=4, free_segments=99) == names(6, 7, 8)


def test_segments_in_spool() -> None:
    assert window.offered_to_fetch(names(5)[0], names(5, 6, 7, 8), names(6, 8), jobs=4, free_segments=99) == names(7)


def test_filesystem_full() -> None:
    offered = names(5, 6, 7, 8)
    assert window.offered_to_fetch(names(5)[0], offered, [], jobs=4, free_segments=1) == names(6)
    assert window.offered_to_fetch(names(5)[0], offered, [], jobs=4, free_segments=0) == []
    assert window.offered_to_fetch(names(5)[0], offered, [], jobs=4, free_segments=-3) == []


def test_nothing_offered() -> None:
    assert window.offered_to_fetch(names(5)[0], [], [], jobs=8, free_segments=99) == []


@given(
    offered=st.lists(st.integers(6, 60), unique=True).map(sorted),
    spooled=st.lists(st.integers(0, 60), unique=True),
    jobs=st.integers(0, 64),
    free_segments=st.integers(-5, 64),
)
def test_window_limits(offered: list[int], spooled: list[int], jobs: int, free_segments: int) -> None:
    chosen = window.offered_to_fetch(names(5)[0], names(5, *offered), names(*spooled), jobs, free_segments)
    assert len(chosen) <= max(0, min(jobs - 1, free_segments))
    assert set(chosen) <= set(names(*offered)) - set(names(*spooled))


def test_next_segments() -> None:
    assert window.next_segments(names(5)[0], 3, SIZE, {}) == names(6, 7, 8)


def test_next_segments_across_logs() -> None:
    last = "0000000100000000000000FE"
    assert window.next_segments(last, 2, SIZE, {}) == ["0000000100000000000000FF", "000000010000000100000000"]


HISTORY = [(1, 7 * SIZE + 0x148), (2, 9 * SIZE + 0x28)]


def test_timeline_starts() -> None:
    assert window.timeline_starts("00000003.history", HISTORY, SIZE) == {1: 0, 2: 7, 3: 9}


def test_next_segments_across_timelines() -> None:
    starts = window.timeline_starts("00000003.history", HISTORY, SIZE)
    expected = [*names(6), *names(7, 8, timeline=2), *names(9, 10, timeline=3)]
    assert window.next_segments(names(5)[0], 5, SIZE, starts) == expected
    assert window.next_segments(names(9, timeline=3)[0], 1, SIZE, starts) == names(10, timeline=3)


def test_next_segments_of_unknown_timeline() -> None:
    assert window.next_segments(names(8, timeline=4)[0], 1, SIZE, {1: 0, 2: 7}) == names(9, timeline=4)


def test_previous_segments() -> None:
    assert window.previous_segments(names(5)[0], 2, SIZE) == names(4, 3)
    assert window.previous_segments(names(3)[0], 9, SIZE) == names(2, 1)


def test_lookahead_credit() -> None:
    wanted = names(6, 7, 8, 9)
    assert window.next_to_fetch(wanted, set(), [], {}, lookahead_credit=0) == []
    assert window.next_to_fetch(wanted, set(), [], {}, lookahead_credit=1) == names(6)
    assert window.next_to_fetch(wanted, set(), [], {names(6)[0]: False}, lookahead_credit=1) == []
    assert window.next_to_fetch(wanted, set(), [], {names(6)[0]: True}, lookahead_credit=2) == names(7, 8)
    assert window.next_to_fetch(wanted, set(), names(7), {names(6)[0]: True}, lookahead_credit=9) == names(8, 9)


def test_end_of_archive() -> None:
    assert window.next_to_fetch(names(6, 7, 8, 9), set(names(8)), [], {}, lookahead_credit=9) == names(6, 7)
