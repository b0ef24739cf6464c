import pytest
from walbasin.wal import holdings, segment
from walbasin.wal.holdings import History

SIZE = 16 << 20
# Timeline 2 begins in segment 7, timeline 3 in segment 9 of timeline 2, timeline 4 in
# segment 5 of timeline 1.
HISTORIES: dict[int, History] = {
    2: [(1, 7 * SIZE + 328)],
    3: [(1, 7 * SIZE + 328), (2, 9 * SIZE)],
    4: [(1, 5 * SIZE + 64)],
}


def name(number: int, timeline: int = 1) -> str:
    return segment.segment_name(timeline, number, SIZE)


@pytest.mark.parametrize(
    ("missing", "held", "target", "known", "later"),
    [
        ("the end", (name(6), [name(5)]), 1, [], ""),
        ("a gap of one", (name(6), [name(5), name(7)]), 1, [], name(7)),
        ("a long gap", (name(6), [name(5), name(700), name(900)]), 1, [], name(700)),
        ("over a log", (name(255), [name(256)]), 1, [], name(256)),
        ("a child", (name(6), [name(5), name(7, 2)]), 2, [2], name(7, 2)),
        ("a grandchild", (name(6), [name(9, 3)]), 3, [3], name(9, 3)),
        ("both ends of a switch", (name(7), [name(7, 2)]), 2, [2], name(7, 2)),
        ("behind the switch", (name(8), [name(7, 2)]), 2, [2], ""),
        ("a child that is not wanted", (name(6), [name(7, 2)]), 1, [2], ""),
        ("a branch that is not on the way", (name(4), [name(5, 4)]), 3, [2, 3, 4], ""),
        ("no child of this one", (name(6, 2), [name(5, 4)]), 4, [4], ""),
        ("a child without a history", (name(6), [name(5), name(7, 2)]), 2, [], name(7, 2)),
        ("a child without a history, behind", (name(9), [name(8), name(7, 2)]), 2, [], name(7, 2)),
        ("a history, and no segment", (name(6), [name(5), "00000002.history"]), 2, [2], ""),
        ("a history that the way lacks", (name(6), [name(5), name(7, 2), name(9, 3)]), 3, [3], name(7, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_later(missing: str, held: tuple[str, list[str]], target: int, known: list[int], later: str) -> None:
    wanted, names = held
    histories = {each: HISTORIES[each] for each in known}
    assert holdings.find_later(wanted, names, target, histories, SIZE) == later, missing


@pytest.mark.parametrize(
    ("missing", "known", "expected"),
    [
        (name(6, 2), [2], True),
        (name(7, 2), [2], False),
        (name(6, 2), [3], True),
        (name(8, 3), [3], True),
        (name(9, 3), [3], False),
        (name(6), [2, 3], False),
        (name(6, 2), [], False),
    ],
)
def test_segment_of_parent(missing: str, known: list[int], expected: bool) -> None:
    assert holdings.is_on_parent(missing, {each: HISTORIES[each] for each in known}, SIZE) is expected


@pytest.mark.parametrize(
    ("asked", "held", "expected"),
    [
        (name(6), [name(4), name(5)], name(5)),
        (name(6), [name(2)], name(2)),
        (name(7, 2), [name(6), name(8, 2)], name(6)),
        (name(8, 2), [name(7), name(7, 2)], name(7, 2)),
        (name(6), [name(7), name(5, 2)], ""),
        (name(6), [], ""),
        ("00000002.history", [name(3), name(4), name(9, 2)], name(4)),
        ("00000003.history", ["00000002.history"], ""),
    ],
)
def test_neighbour(asked: str, held: list[str], expected: str) -> None:
    assert holdings.find_neighbour(asked, held) == expected


@pytest.mark.parametrize(
    ("position", "held", "target", "expected"),
    [
        (name(5), [name(5), name(6)], 1, ("", "")),
        (name(5), [name(6), name(7), name(9), name(12)], 1, (name(8), name(9))),
        (name(5), [name(3)], 1, ("", "")),
        (name(5), [name(6), name(7, 2), name(8, 2)], 2, ("", "")),
        (name(5), [name(7, 2), name(8, 2)], 2, (name(6), name(7, 2))),
        (name(5), [name(6), name(8, 2)], 2, (name(7, 2), name(8, 2))),
        (name(5), [], 1, ("", "")),
    ],
)
def test_gap(position: str, held: list[str], target: int, expected: tuple[str, str]) -> None:
    assert holdings.find_gap(position, held, target, HISTORIES, SIZE) == expected


@pytest.mark.parametrize(
    ("timeline", "lsn", "target", "fork"),
    [
        (1, 6 * SIZE, 2, 0),
        (1, 7 * SIZE + 328, 2, 0),
        (1, 7 * SIZE + 329, 2, 7 * SIZE + 328),
        (1, 8 * SIZE, 3, 7 * SIZE + 328),
        (2, 8 * SIZE, 3, 0),
        (2, 8 * SIZE, 4, 5 * SIZE + 64),
        (2, 8 * SIZE, 2, 0),
        (1, 8 * SIZE, 9, 0),
        # Timeline 9 leads there, and none of ours is known to.
        (7, 8 * SIZE, 9, 6 * SIZE),
    ],
)
def test_fork(timeline: int, lsn: int, target: int, fork: int) -> None:
    known = HISTORIES | {9: [(6, 6 * SIZE)]} if timeline == 7 else HISTORIES
    assert holdings.find_fork(timeline, lsn, target, known) == fork


# This server is on timeline 1, at 8 * SIZE.
DEAD, GOOD = [(1, 5 * SIZE)], [(1, 9 * SIZE)]


@pytest.mark.parametrize(
    ("asked", "archive", "expected"),
    [
        (2, {2: DEAD}, 5 * SIZE),
        (2, {2: GOOD}, 0),
        (2, {2: DEAD, 3: GOOD}, 0),
        (3, {2: GOOD, 3: DEAD}, 5 * SIZE),
        (2, {2: DEAD, 3: DEAD}, 5 * SIZE),
        (2, {2: DEAD, 3: DEAD, 4: GOOD, 5: DEAD}, 0),
        (5, {2: DEAD, 3: DEAD, 4: GOOD, 5: DEAD}, 5 * SIZE),
        # PostgreSQL stops at the first that is missing.
        (2, {2: DEAD, 4: GOOD}, 5 * SIZE),
        (2, {2: DEAD, 3: [*DEAD, (2, 9 * SIZE)]}, 5 * SIZE),
        (1, {2: DEAD}, 0),
    ],
)
def test_dead_end(asked: int, archive: dict[int, holdings.History], expected: int) -> None:
    known = {asked: archive[asked]} if asked in archive else {}
    assert holdings.find_dead_end(asked, 1, 8 * SIZE, known, archive.get) == expected


def test_newest_timeline() -> None:
    assert holdings.newest_timeline([]) == 0
    assert holdings.newest_timeline([name(3), "00000003.history", name(5, 2)]) == 3


@pytest.mark.parametrize("known", [[], [2, 3]])
def test_probes(known: list[int]) -> None:
    """Ask for what lies near, on both sides and on the timelines above."""
    probes = holdings.probes(name(6), {each: HISTORIES[each] for each in known}, SIZE)
    assert {name(5), name(4), name(2), name(7), name(8), name(134)} <= set(probes)
    assert {name(7, 2) if known else name(6, 2), name(9, 3) if known else name(6, 3)} <= set(probes)
    assert len(probes) == len(set(probes)) < 40
