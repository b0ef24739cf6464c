import pytest
from hypothesis import given
from hypothesis import strategies as st
from walbasin.wal import segment, window

from tests.support.wal_builder import MIB

SIZE = 16 * MIB


def names(*numbers: int, timeline: int = 1) -> list[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in numbers]


def test_what_is_offered_is_fetched_nearest_first_up_to_the_window() -> None:
    assert window.offered_to_fetch(names(5)[0], names(5, 6, 7, 8, 9), [], jobs=4, free_segments=99) == names(6, 7, 8)


def test_what_is_in_the_spool_is_not_fetched_twice() -> None:
    assert window.offered_to_fetch(names(5)[0], names(5, 6, 7, 8), names(6, 8), jobs=4, free_segments=99) == names(7)


def test_a_full_filesystem_narrows_the_window() -> None:
    offered = names(5, 6, 7, 8)
    assert window.offered_to_fetch(names(5)[0], offered, [], jobs=4, free_segments=1) == names(6)
    assert window.offered_to_fetch(names(5)[0], offered, [], jobs=4, free_segments=0) == []
    assert window.offered_to_fetch(names(5)[0], offered, [], jobs=4, free_segments=-3) == []


def test_an_archive_that_offers_nothing_is_asked_for_nothing() -> None:
    assert window.offered_to_fetch(names(5)[0], [], [], jobs=8, free_segments=99) == []


@given(
    offered=st.lists(st.integers(6, 60), unique=True).map(sorted),
    spooled=st.lists(st.integers(0, 60), unique=True),
    jobs=st.integers(0, 64),
    free_segments=st.integers(-5, 64),
)
def test_the_window_keeps_its_limits(offered: list[int], spooled: list[int], jobs: int, free_segments: int) -> None:
    chosen = window.offered_to_fetch(names(5)[0], names(5, *offered), names(*spooled), jobs, free_segments)
    assert len(chosen) <= max(0, min(jobs - 1, free_segments))
    assert set(chosen) <= set(names(*offered)) - set(names(*spooled))


def test_replay_wants_what_follows() -> None:
    assert window.next_segments(names(5)[0], 3, SIZE, {}) == names(6, 7, 8)


def test_the_window_crosses_from_one_log_to_the_next() -> None:
    last = "0000000100000000000000FE"
    assert window.next_segments(last, 2, SIZE, {}) == ["0000000100000000000000FF", "000000010000000100000000"]


HISTORY = [(1, 7 * SIZE + 0x148), (2, 9 * SIZE + 0x28)]


def test_a_timeline_begins_in_the_segment_of_its_switch() -> None:
    assert window.timeline_starts("00000003.history", HISTORY, SIZE) == {1: 0, 2: 7, 3: 9}


def test_replay_crosses_to_the_next_timeline_in_the_segment_of_the_switch() -> None:
    starts = window.timeline_starts("00000003.history", HISTORY, SIZE)
    expected = [*names(6), *names(7, 8, timeline=2), *names(9, 10, timeline=3)]
    assert window.next_segments(names(5)[0], 5, SIZE, starts) == expected
    assert window.next_segments(names(9, timeline=3)[0], 1, SIZE, starts) == names(10, timeline=3)


def test_a_timeline_that_is_no_part_of_the_history_goes_on_by_itself() -> None:
    assert window.next_segments(names(8, timeline=4)[0], 1, SIZE, {1: 0, 2: 7}) == names(9, timeline=4)


def test_what_comes_before_a_segment_ends_with_the_first_of_all() -> None:
    assert window.previous_segments(names(5)[0], 2, SIZE) == names(4, 3)
    assert window.previous_segments(names(3)[0], 9, SIZE) == names(2, 1)


def test_as_many_are_asked_for_on_the_chance_as_the_archive_had_in_a_row() -> None:
    wanted = names(6, 7, 8, 9)
    assert window.next_to_fetch(wanted, set(), [], {}, lookahead_credit=0) == []
    assert window.next_to_fetch(wanted, set(), [], {}, lookahead_credit=1) == names(6)
    assert window.next_to_fetch(wanted, set(), [], {names(6)[0]: False}, lookahead_credit=1) == []
    assert window.next_to_fetch(wanted, set(), [], {names(6)[0]: True}, lookahead_credit=2) == names(7, 8)
    assert window.next_to_fetch(wanted, set(), names(7), {names(6)[0]: True}, lookahead_credit=9) == names(8, 9)


def test_nothing_is_asked_for_beyond_the_end_of_the_archive() -> None:
    assert window.next_to_fetch(names(6, 7, 8, 9), set(names(8)), [], {}, lookahead_credit=9) == names(6, 7)


FAR = (1, 2, 4, 8, 16, 32, 64, 128)


def test_a_hole_is_looked_for_further_and_further_away_on_the_same_timeline() -> None:
    (beyond,) = window.gap_probes("0000000200000000000000FF", SIZE, [])
    assert [segment.segment_number(name, SIZE) - 0xFF for name in beyond] == list(FAR)
    assert {segment.timeline(name) for name in beyond} == {2}


@pytest.mark.parametrize(
    ("missing", "histories", "begins"),
    [
        # Timeline 2 begins in segment 7, timeline 3 in 9.
        (names(6), [{1: 0, 2: 7, 3: 9}], {1: 7, 2: 7, 3: 9}),
        (names(4), [{1: 0, 2: 7}, {1: 0, 2: 7, 3: 9}], {1: 5, 2: 7, 3: 9}),
        # Segment 7 of timeline 2 has been asked for before that of its parent is.
        (names(7), [{1: 0, 2: 7, 3: 9}], {1: 8, 3: 9}),
        (names(8, timeline=2), [{1: 0, 2: 7, 3: 9}], {2: 9, 3: 9}),
        (names(9, timeline=3), [{1: 0, 2: 7, 3: 9}], {3: 10}),
        # Two that have branched off side by side, and one that is no child of ours.
        (names(6), [{1: 0, 2: 7}, {1: 0, 3: 8}], {1: 7, 2: 7, 3: 8}),
        (names(6, timeline=2), [{1: 0, 3: 8}], {2: 7}),
    ],
)
def test_a_hole_before_a_switch_is_told_by_what_the_next_timeline_has(
    missing: list[str], histories: list[dict[int, int]], begins: dict[int, int]
) -> None:
    found = window.gap_probes(missing[0], SIZE, histories)
    assert found == [
        [segment.segment_name(each, first - 1 + step, SIZE) for step in FAR] for each, first in begins.items()
    ]
