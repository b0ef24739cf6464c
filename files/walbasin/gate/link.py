"""Measure what the link carries, and decide whether compression would carry more."""

import math
import time
from typing import Callable, Dict, NamedTuple

# Bytes a second. A link that carries more is not worth a core of the Barman host: it is
# as fast as replay, or nearly as fast as the compressor on a slow core.
WORTHWHILE: Dict[str, float] = {"zstd": 64e6, "gzip": 24e6}
# A change must promise this factor, or each measurement would bring another one.
GAIN = 1.25
# Seconds and steps that a measurement takes at least, unless a file ends before: a busy
# host can hold up a single one.
EVIDENCE, STEPS = 0.2, 2
# Seconds for which a measurement counts; after that this way is tried anew. A look at
# the plain link costs more than a try of a compressor that a busy host held up.
PLAIN_FRESH, COMPRESSED_FRESH = 30.0, 15.0


class Figures(NamedTuple):
    """Hold what was measured on one connection, each in bytes of WAL a second.

    plain, compressed: what the link has carried so; 0 where that is not known. demand:
    what the fetcher has asked for, its pauses counted. worthwhile: see WORTHWHILE.
    """

    plain: float
    compressed: float
    demand: float
    worthwhile: float
    is_compressing: bool


def should_compress(figures: Figures) -> bool:
    """Return whether to compress what comes next.

    Only where plain WAL is too slow for what is asked for: the link holds recovery up,
    and not PostgreSQL.
    """
    if not figures.plain or figures.plain > GAIN * figures.demand:
        return False
    if not figures.compressed:
        return figures.plain < figures.worthwhile
    return figures.compressed > (1 if figures.is_compressing else GAIN) * figures.plain


class Link:
    """Measure one connection, file by file."""

    def __init__(self, worthwhile: float, clock: Callable[[], float] = time.monotonic) -> None:
        """worthwhile: see WORTHWHILE; 0 where there is nothing to compress with."""
        self._worthwhile = worthwhile
        self._clock = clock
        self._is_compressing = False
        # Bytes a second, and when they were measured.
        self._plain = self._compressed = 0.0
        self._plain_at = self._compressed_at = -math.inf
        # Of the last two files: bytes a second, from the end of the file before.
        self._demands = (math.inf, math.inf)
        self._file_ended_at = -math.inf
        # What is being measured: since when, how many bytes in how many steps, and
        # whether it began with the file.
        self._since = 0.0
        self._count = self._steps = 0
        self._is_first = True

    def should_compress(self) -> bool:
        """Return whether to compress what comes next of a file."""
        now = self._clock()
        plain = self._plain if now - self._plain_at < PLAIN_FRESH else 0.0
        compressed = self._compressed if now - self._compressed_at < COMPRESSED_FRESH else 0.0
        figures = Figures(
            plain=plain,
            compressed=compressed,
            demand=max(self._demands),
            worthwhile=self._worthwhile,
            is_compressing=self._is_compressing,
        )
        return should_compress(figures)

    def leave_out(self, seconds: float) -> None:
        """Leave the preparation of the next file out of what the fetcher asks for."""
        self._file_ended_at += seconds

    def begin_file(self) -> None:
        """Note that a file begins."""
        self._begin_measurement()
        self._is_first = True

    def _begin_measurement(self) -> None:
        self._since, self._count, self._steps, self._is_first = self._clock(), 0, 0, False

    def note_plain(self, count: int, *, is_end: bool) -> None:
        """Note that so many bytes were sent as they are. is_end: the file is complete.

        What is sent last, in a moment, only tells what fits into buffers.
        """
        self._is_compressing = False
        self._count += count
        self._steps += 1
        seconds = self._clock() - self._since
        if (seconds >= EVIDENCE and self._steps >= STEPS) or (is_end and self._is_first):
            self._plain, self._plain_at = self._count / max(seconds, 1e-6), self._clock()
            self._begin_measurement()

    def begin_compressed(self) -> None:
        """Note that the file, or its rest, is compressed from now on."""
        self._is_compressing = True
        self._begin_measurement()

    def note_compressed(self, count: int) -> None:
        """Note that so many bytes were sent compressed, since begin_compressed."""
        self._compressed_at = self._clock()
        self._compressed = count / max(self._compressed_at - self._since, 1e-6)

    def end_file(self, length: int) -> None:
        """Note that a file of so many bytes is complete."""
        now = self._clock()
        self._demands = (self._demands[1], length / max(now - self._file_ended_at, 1e-6))
        self._file_ended_at = now
