import math

import pytest
from walbasin.gate.link import PLAIN_FRESH, Figures, Link, should_compress

# Bytes, and bytes a second.
SIZE, MIB, MB = 16 << 20, 1 << 20, 1e6
ENDLESS = math.inf


@pytest.mark.parametrize(
    ("what", "plain", "compressed", "demand", "is_compressing", "expected"),
    [
        ("nothing is known yet", 0, 0, ENDLESS, False, False),
        ("100 Mbit/s, and PostgreSQL waits", 12, 0, ENDLESS, False, True),
        ("as fast as the link can", 12, 0, 12, False, True),
        ("the link is hardly used", 12, 0, 3, False, False),
        ("a bit faster than what is asked for", 12, 0, 11, False, True),
        ("loopback", 250, 0, ENDLESS, False, False),
        ("a fast link that is asked for all", 110, 0, 110, False, False),
        ("compression is known to be faster", 12, 80, ENDLESS, False, True),
        ("a little faster: not worth a change", 12, 14, ENDLESS, False, False),
        ("a little faster: not worth a change back", 12, 14, ENDLESS, True, True),
        ("slower: a busy host, or WAL that is dense", 12, 10, ENDLESS, False, False),
        ("slower than it was", 12, 11, ENDLESS, True, False),
        ("replay is slow, but plain is slower", 12, 80, 40, True, True),
        ("replay is so slow that plain is enough", 12, 80, 9, True, False),
        ("how fast plain is has to be found out anew", 0, 80, 80, True, False),
        ("the link has become fast", 200, 80, 80, True, False),
    ],
)
def test_should_compress(
    what: str, plain: float, compressed: float, demand: float, is_compressing: bool, expected: bool
) -> None:
    figures = Figures(
        plain=plain * MB,
        compressed=compressed * MB,
        demand=demand * MB,
        worthwhile=64 * MB,
        is_compressing=is_compressing,
    )
    assert should_compress(figures) == expected, what


def test_nothing_to_compress_with() -> None:
    assert not should_compress(Figures(plain=MB, compressed=0, demand=ENDLESS, worthwhile=0, is_compressing=False))


class Simulation:
    """Send files over a link that takes `rate` bytes a second, by a clock of its own.

    What is compressed is an eighth of the plain bytes. pause: seconds between two
    files. preparation: seconds of them in which a file is undone.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.pause = self.preparation = 0.0
        self.now = 1000.0
        self.link = Link(64 * MB, lambda: self.now)

    def send(self) -> int:
        """Send one file. Return how many bytes of it were sent plain."""
        self.now += self.pause + self.preparation
        self.link.leave_out(self.preparation)
        sent = 0
        self.link.begin_file()
        while sent < SIZE and not self.link.should_compress():
            self.now += MIB / self.rate
            sent += MIB
            self.link.note_plain(MIB, is_end=sent == SIZE)
        if sent < SIZE:
            self.link.begin_compressed()
            self.now += (SIZE - sent) / 8 / self.rate
            self.link.note_compressed(SIZE - sent)
        self.link.end_file(SIZE)
        return sent

    def plain_files(self, count: int) -> int:
        """Return how many of so many files were sent plain from end to end."""
        return sum(self.send() == SIZE for _ in range(count))


@pytest.mark.parametrize("rate", [2.5 * MB, 12.5 * MB, 40 * MB])
def test_slow_link(rate: float) -> None:
    """Compress from the first file on, and have a short look at plain WAL at times."""
    simulation = Simulation(rate)
    first = simulation.send()
    assert 0 < first <= max(2 * MIB, 0.3 * rate)
    began, plain, count = simulation.now, 0, 500
    for _ in range(count):
        plain += simulation.send()
    looks = (simulation.now - began) / PLAIN_FRESH
    assert plain <= (looks + 1) * max(2 * MIB, 0.3 * rate)
    assert plain > 0 or looks < 1


@pytest.mark.parametrize("rate", [125 * MB, 300 * MB])
def test_fast_link(rate: float) -> None:
    assert Simulation(rate).plain_files(2000) == 2000


def test_busy_host() -> None:
    """Take no moment without a processor for a slow link."""
    simulation = Simulation(250 * MB)
    simulation.link.begin_file()
    simulation.now += 0.5
    simulation.link.note_plain(MIB, is_end=False)
    assert not simulation.link.should_compress()


def test_slow_replay() -> None:
    """Compress nothing once the link brings more than PostgreSQL takes."""
    simulation = Simulation(12.5 * MB)
    assert simulation.plain_files(8) == 0
    simulation.pause = 3.0
    simulation.plain_files(2)
    assert simulation.plain_files(50) == 50
    # PostgreSQL is faster than the plain link again.
    simulation.pause = 0.3
    simulation.plain_files(2)
    assert simulation.plain_files(100) == 0


def test_slow_filter() -> None:
    """Compress although the gate itself, not the link, takes longest."""
    simulation = Simulation(12.5 * MB)
    simulation.preparation = 3.0
    assert simulation.plain_files(50) <= 1


def test_changing_link() -> None:
    simulation = Simulation(12.5 * MB)
    assert simulation.plain_files(100) == 0
    simulation.rate = 250 * MB
    simulation.now += PLAIN_FRESH
    simulation.plain_files(2)
    assert simulation.plain_files(1000) == 1000
    simulation.rate = 5 * MB
    simulation.plain_files(2)
    assert simulation.plain_files(100) == 0
