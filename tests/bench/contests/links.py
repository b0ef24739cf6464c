"""Measure what comes over a link, which a relay stands in for."""

import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Iterator

from tests.support.postgres import SEGMENT_SIZE

from .. import rows
from ..contest import LIMIT, OURS, PGBACKREST, STOCK, Contest, Entrants
from ..field import JOBS, STEADY, Field, Standby

# Seconds each way of a wide network.
WIDE = 0.025
# Seconds each way of a narrow network, and its bytes a second.
NARROW, NARROW_RATE = 0.01, 100_000_000 // 8
# Of each link in rows.LINKS that is relayed: seconds each way, and bytes a second.
LINKS = dict(zip(rows.LINKS, ((0.01, 100_000_000 // 8), (0.01, 20_000_000 // 8), (0.0, 1_000_000_000 // 8))))
# Segments that are fetched plain over a slow link, where each takes the same time.
SLOW_SEGMENTS = 4
# Bytes a second, and segments that take 20 seconds so.
LIMIT_RATE, LIMITED_SEGMENTS = 10_000_000, 12


@contextlib.contextmanager
def wide(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure behind a round trip of 50 ms. The limit: the same relay without it."""
    with field.far(WIDE) as far, field.far(0) as near:

        def fetch(
            there: Standby, command: Callable[[], str], count: int = len(field.names)
        ) -> Callable[[], dict[str, float]]:
            def run() -> dict[str, float]:
                # What it takes to find out how many connections help is over by then.
                seconds = there.trial(command(), field.names[:count]).seconds[count // 3 :]
                return {rows.WIDE: len(seconds) / sum(seconds)}

            return run

        yield {
            OURS: fetch(far, far.ours),
            STOCK: fetch(far, far.stock, STEADY),
            PGBACKREST: fetch(far, far.pgbackrest),
            LIMIT: fetch(near, near.ours),
        }


@contextlib.contextmanager
def narrow(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure behind 100 Mbit/s and a round trip of 20 ms.

    The limit: the compressed bytes, and the link with nothing else.
    """
    names = field.names
    stored = [field.barman.file("angus_gzip", name).stat().st_size for name in names]
    squeezed = [len(zlib.compress((field.local / name).read_bytes(), 1)) for name in names]
    with field.far(NARROW, NARROW_RATE) as far:

        def fetch(row: str, command: str, count: int = len(names)) -> dict[str, float]:
            return {row: count / sum(far.trial(command, names[:count]).seconds)}

        yield {
            OURS: lambda: (
                fetch(rows.NARROW, far.ours(kind="gzip")) | fetch(rows.NARROW_Z, far.ours(options=f"-p {JOBS} -z"))
            ),
            STOCK: lambda: fetch(rows.NARROW, far.stock("gzip"), STEADY),
            PGBACKREST: lambda: fetch(rows.NARROW, far.pgbackrest("gzip")),
            LIMIT: lambda: {
                rows.NARROW: NARROW_RATE * len(names) / sum(stored),
                rows.NARROW_Z: NARROW_RATE * len(names) / sum(squeezed),
            },
        }


def by_compression(link: str) -> Contest:
    """Measure a plain archive behind a link, with each way to compress.

    The limit: the link with nothing but plain WAL.
    """

    @contextlib.contextmanager
    def contest(field: Field, standby: Standby) -> Iterator[Entrants]:
        delay, rate = LINKS.get(link, (0.0, 0))
        is_slow = link in rows.LINKS[:2]
        options = {rows.NO_OPTION: "", rows.NO_COMPRESSION: rows.NO_COMPRESSION}
        if is_slow:
            options |= {rows.BY_GZIP: rows.BY_GZIP, rows.BY_ZSTD: rows.BY_ZSTD}
        with field.far(delay, rate) if rate else contextlib.nullcontext(standby) as there:

            def fetch(words: str) -> float:
                is_long = is_slow and words == rows.NO_COMPRESSION
                names = field.names[:SLOW_SEGMENTS] if is_long else field.names
                return len(names) / sum(there.trial(there.ours(options=f"-p {JOBS} {words}"), names).seconds)

            # What comes first finds everything colder, so each comes first in turn.
            order = deque(options)

            def fetch_all() -> dict[str, float]:
                order.rotate()
                found = {way: fetch(options[way]) for way in order}
                return {rows.LINK.format(link, way): found[way] for way in options}

            entrants: Entrants = {OURS: fetch_all}
            if is_slow:
                entrants[LIMIT] = lambda: {rows.LINK.format(link, rows.NO_COMPRESSION): rate / SEGMENT_SIZE}
            yield entrants

    return contest


@contextlib.contextmanager
def rate_limited(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure what comes in 20 seconds with a limit, when replay costs nothing."""

    def fetch() -> dict[str, float]:
        command = standby.ours(options=f"-p {JOBS} --compress none --rate-limit {LIMIT_RATE // 10**6}M")
        seconds = standby.trial(command, field.names[:LIMITED_SEGMENTS]).seconds
        return {
            rows.LIMITED: len(seconds) * SEGMENT_SIZE / sum(seconds) / 1e6,
            rows.LIMITED_WAIT: max(seconds[1:]) * LIMIT_RATE / SEGMENT_SIZE,
        }

    yield {OURS: fetch}
