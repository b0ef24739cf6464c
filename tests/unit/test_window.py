from hypothesis import given
from hypothesis import strategies as st
from walbasin import segment, window

from tests.by_hand import MIB

SIZE = 16 * MIB


def names(*numbers: int, timeline: int = 1) -> list[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in numbers]


def test_what_is_offered_is_fetched_nearest_first_up_to_the_window() -> None:
    assert window.ahead(names(5)[0], names(5, 6, 7, 8, 9), [], jobs=4, room=99) == names(6, 7, 8)


def test_what_is_in_the_spool_is_not_fetched_twice() -> None:
    assert window.ahead(names(5)[0], names(5, 6, 7, 8), names(6, 8), jobs=4, room=99) == names(7)


def test_a_full_filesystem_narrows_the_window() -> None:
    offered = names(5, 6, 7, 8)
    assert window.ahead(names(5)[0], offered, [], jobs=4, room=1) == names(6)
    assert window.ahead(names(5)[0], offered, [], jobs=4, room=0) == []
    assert window.ahead(names(5)[0], offered, [], jobs=4, room=-3) == []


def test_an_archive_that_offers_nothing_is_asked_for_nothing() -> None:
    assert window.ahead(names(5)[0], [], [], jobs=8, room=99) == []


@given(
    offered=st.lists(st.integers(6, 60), unique=True).map(sorted),
    spooled=st.lists(st.integers(0, 60), unique=True),
    jobs=st.integers(0, 64),
    room=st.integers(-5, 64),
)
def test_the_window_keeps_its_limits(offered: list[int], spooled: list[int], jobs: int, room: int) -> None:
    chosen = window.ahead(names(5)[0], names(5, *offered), names(*spooled), jobs, room)
    assert len(chosen) <= max(0, min(jobs - 1, room))
    assert set(chosen) <= set(names(*offered)) - set(names(*spooled))


def test_what_replay_cannot_want_is_unwanted() -> None:
    past, wanted, beyond = names(3, 4, 5), names(6, 7), names(8, 9)
    other_timeline = names(6, timeline=2)
    spooled = [*past, *wanted, *beyond, *other_timeline]
    assert window.unwanted(spooled, names(5)[0], jobs=2, size=SIZE) == [*past, *beyond, *other_timeline]


def test_the_window_crosses_from_one_log_to_the_next() -> None:
    spooled = ["0000000100000000000000FF", "000000010000000100000000", "000000010000000100000002"]
    assert window.unwanted(spooled, "0000000100000000000000FE", jobs=2, size=SIZE) == ["000000010000000100000002"]


def test_a_hole_is_looked_for_further_and_further_away_on_the_same_timeline() -> None:
    beyond = window.beyond("0000000200000000000000FF", SIZE)
    distances = [segment.position(name, SIZE) - 0xFF for name in beyond]
    assert distances == [1, 2, 4, 8, 16, 32, 64, 128]
    assert {segment.timeline(name) for name in beyond} == {2}
