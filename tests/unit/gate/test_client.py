"""The pipe to sshd grows where it runs dry, and is small while nothing is sent."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

import pytest
from walbasin.gate.client import AT_REST, DRY_PAUSES, LARGE, SMALL, OutgoingPipe

KIB = 1024


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """Give the reading and the writing end of a pipe, as it is made."""
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def size_of(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds of pauses, which are not made."""
    found: list[float] = []
    monkeypatch.setattr("walbasin.gate.client.time.sleep", found.append)
    return found


def test_growth(ends: tuple[int, int], pauses: list[float]) -> None:
    """A pause is as long as sshd needs, at its fastest, for a full pipe."""
    pipe = OutgoingPipe(ends[1])
    pipe.pause(64 * KIB)
    for size in (SMALL, 2 * SMALL, LARGE, LARGE):
        assert size_of(ends[1]) == size
        assert pauses.pop() == pytest.approx(size / 2**30)
        for _ in range(DRY_PAUSES + 1):
            pipe.pause(size)


def test_no_growth(ends: tuple[int, int], pauses: list[float]) -> None:
    """What is taken at once of a file, before a slow link, makes no large pipe."""
    pipe = OutgoingPipe(ends[1])
    for _ in range(10):
        for taken in [SMALL] * DRY_PAUSES + [SMALL // 2]:
            pipe.pause(taken)
    assert size_of(ends[1]) == SMALL
    assert len(pauses) == 10 * (DRY_PAUSES + 1)


def test_rest(ends: tuple[int, int]) -> None:
    pipe = OutgoingPipe(ends[1])
    pipe.release()
    pipe.pause(64 * KIB)
    os.write(ends[1], b"x" * 128 * KIB)
    pipe.release()
    assert size_of(ends[1]) == SMALL, "with more in it than it holds at rest, it stays"
    os.read(ends[0], 128 * KIB)
    pipe.release()
    assert size_of(ends[1]) == AT_REST
    pipe.pause(64 * KIB)
    assert size_of(ends[1]) == SMALL


def test_no_pipe(ends: tuple[int, int], pauses: list[float]) -> None:
    os.close(ends[1])
    pipe = OutgoingPipe(ends[1])
    pipe.pause(64 * KIB)
    pipe.pause(64 * KIB)
    pipe.release()
    assert not pauses
