"""A pipe is looked into when half of it has been moved."""

import pytest
from walbasin.wal.pipe import LONGEST, SHORTEST, next_pause

SIZE = 1 << 20


@pytest.mark.parametrize(
    ("what", "rate", "expected"),
    [
        ("a fast link, and half of the pipe", 1 << 29, SIZE / 2 / (1 << 29)),
        ("a slower one", 1 << 27, SIZE / 2 / (1 << 27)),
        ("no pause is longer", 1 << 20, LONGEST),
        ("none is shorter", 1 << 34, SHORTEST),
    ],
)
@pytest.mark.parametrize("first", [SHORTEST, LONGEST])
def test_pause(what: str, rate: float, expected: float, first: float) -> None:
    """rate: bytes a second, at which the pause settles."""
    pause = first
    for _ in range(20):
        pause = next_pause(pause, min(SIZE, round(rate * pause)), SIZE)
    assert pause == pytest.approx(expected, rel=0.01), what


def test_small_steps() -> None:
    """A moment without anything, or with much, changes little."""
    assert next_pause(0.002, 1, SIZE) == 0.004
    assert next_pause(0.002, SIZE * 100, SIZE) == 0.001
