"""Write a table of medians, what had to be reached, and a chart."""

import statistics
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import matplotlib

from tests import docs

from .contest import CP, LIMIT, MV, NO_GATE, OURS, PGBACKREST, STOCK
from .field import JOBS
from .rows import (
    BY_GZIP,
    BY_ZSTD,
    COLD,
    COLD_CROWD,
    COPY,
    CUSTOM,
    FAIR,
    GZIP,
    HANDSHAKE,
    HIT,
    HOST_CPU,
    LIMITED,
    LIMITED_WAIT,
    LINK,
    LINKS,
    MANY,
    MEMORY_FEW,
    MISS,
    MISS_OF_TWO,
    NARROW,
    NARROW_Z,
    NO_COMPRESSION,
    NO_OPTION,
    ONE_DEAD,
    PLAIN,
    PROMOTION,
    PROMOTION_COLD,
    PROMOTION_CUT,
    PROMOTION_DARK,
    PROMOTION_FROZEN,
    PROMOTION_REFUSED,
    RECOVERY,
    SERVERS,
    STANDBYS,
    STREAM_FORMS,
    STREAMING,
    STREAMS,
    WAIT,
    WIDE,
    ZSTD,
)

matplotlib.use("svg")
from matplotlib import pyplot

PERFORMANCE = docs.DOCS / "performance.md"
COLUMNS = {
    OURS: "ours, gate",
    NO_GATE: "ours, no gate",
    STOCK: f"stock `-p {JOBS}`",
    PGBACKREST: "pgBackRest",
    CP: "`cp`",
    MV: "`mv`",
    LIMIT: "limit",
}
# Seconds that a 16 MiB segment takes on one connection at a round trip of 50 ms, by
# OpenSSH's window of 2 MiB.
WINDOW_LIMITED = 0.525


def plain(value: float) -> str:
    """Return a number with three significant digits, never with an exponent."""
    return format(Decimal(f"{value:.3g}"), "f")


class Results:
    """Collect what was measured: row -> entrant -> one value a round."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, entrant: str, value: float) -> None:
        self.rows.setdefault(row, {}).setdefault(entrant, []).append(value)

    def median(self, row: str, entrant: str = OURS) -> float:
        """Return the median of all rounds. Raises KeyError when it was not measured."""
        return statistics.median(self.rows[row][entrant])


class Target(NamedTuple):
    """Say that `measure` must be at least `bound`, or at most, when `is_ceiling`."""

    what: str
    bound: float
    measure: Callable[[Results], float]
    is_ceiling: bool = False

    def row(self, results: Results) -> str:
        value = self.measure(results)
        is_reached = value <= self.bound if self.is_ceiling else value >= self.bound
        bound = f"at {'most' if self.is_ceiling else 'least'} {self.bound:g}"
        return f"| {self.what} | {bound} | {plain(value)} | {'yes' if is_reached else '**no**'} |"


def _of(row: str, entrant: str) -> Callable[[Results], float]:
    return lambda results: results.median(row) / results.median(row, entrant)


def _after(row: str, allowance: Callable[[Results], float]) -> Callable[[Results], float]:
    """Measure a promotion's seconds beyond `/bin/false`'s, and beyond an allowance."""
    return lambda results: results.median(row) - results.median(PROMOTION, LIMIT) - allowance(results)


def _of_plain_link(link: str) -> Callable[[Results], float]:
    """Measure what comes without an option, of what the link carries plain."""
    return lambda results: (
        results.median(LINK.format(link, NO_OPTION)) / results.median(LINK.format(link, NO_COMPRESSION), LIMIT)
    )


def _of_options(link: str, *options: str) -> Callable[[Results], float]:
    """Measure what comes without an option, of what comes with the best of these."""
    return lambda results: (
        results.median(LINK.format(link, NO_OPTION))
        / max(results.median(LINK.format(link, option)) for option in options)
    )


def _wide(results: Results) -> float:
    windows = JOBS / WINDOW_LIMITED
    return results.median(WIDE) / min(windows, results.median(WIDE, LIMIT))


TARGETS = [
    Target("plain archive, of stock", 7, _of(PLAIN, STOCK)),
    Target("plain archive, of pgBackRest", 2, _of(PLAIN, PGBACKREST)),
    Target("plain archive, of one ssh stream into a file", 0.85, _of(PLAIN, LIMIT)),
    Target("gzip archive, of stock", 4, _of(GZIP, STOCK)),
    Target("gzip archive, of pgBackRest", 1, _of(GZIP, PGBACKREST)),
    Target("zstd archive, of stock", 4, _of(ZSTD, STOCK)),
    Target("zstd archive, of pgBackRest", 1, _of(ZSTD, PGBACKREST)),
    Target(
        "stock Barman host, of stock", 2, lambda results: results.median(PLAIN, NO_GATE) / results.median(PLAIN, STOCK)
    ),
    Target("wait at 100 ms replay, of cp", 1, _of(WAIT, CP), True),
    Target("a spool hit, of cp", 0.5, _of(HIT, CP), True),
    Target("CPU on the Barman host, of stock", 1 / 8, _of(HOST_CPU, STOCK), True),
    Target("a real standby's recovery, of cp", 1.2, _of(RECOVERY, CP), True),
    Target("from a rebuild's copy until it streams, of cp", 1.2, _of(STREAMING, CP), True),
    Target("Barman's restore into a standby, of the same by hand", 0.9, _of(COPY, LIMIT)),
    Target("first segment, cold, of one ssh that brings it", 1, _of(COLD, LIMIT), True),
    Target(f"gate's cold start, {SERVERS} servers, of one server's", 1.2, _of(COLD_CROWD, LIMIT), True),
    Target("a miss, ms", 25, lambda results: results.median(MISS), True),
    Target("a miss at two hosts, of one", 1.3, _of(MISS_OF_TWO, LIMIT), True),
    Target("the first of two hosts dead, of one", 0.95, _of(ONE_DEAD, LIMIT)),
    Target("promotion, more than with /bin/false, s", 0.3, _after(PROMOTION, lambda results: 0), True),
    Target(
        "the same, cold, without one handshake, s",
        0.3,
        _after(PROMOTION_COLD, lambda results: results.median(HANDSHAKE, LIMIT) / 1000),
        True,
    ),
    Target("the same, Barman black-holed, s", 1, _after(PROMOTION_DARK, lambda results: 0), True),
    Target("the same, Barman refuses, s", 1, _after(PROMOTION_REFUSED, lambda results: 0), True),
    Target("the same, frozen with a connection open, s", 1, _after(PROMOTION_FROZEN, lambda results: 0), True),
    Target("the same, frozen in mid-segment, s", 1, _after(PROMOTION_CUT, lambda results: 0), True),
    Target("50 ms round trip, of what the windows or the relay allow", 0.8, _wide),
    Target("100 Mbit/s, gzip archive, of the link", 0.9, _of(NARROW, LIMIT)),
    Target("100 Mbit/s, -z, of the link", 0.9, _of(NARROW_Z, LIMIT)),
    *(Target(f"{link}, no option, of the plain link", 4, _of_plain_link(link)) for link in LINKS[:2]),
    *(Target(f"{link}, no option, of `-z` and zstd", 0.9, _of_options(link, BY_GZIP, BY_ZSTD)) for link in LINKS[:2]),
    *(Target(f"{link}, no option, of `none`", 0.97, _of_options(link, NO_COMPRESSION)) for link in LINKS[2:]),
    Target("`--rate-limit 10M`, MB a second", 9, lambda results: results.median(LIMITED)),
    Target("the same", 10.5, lambda results: results.median(LIMITED), True),
    Target("its longest wait, of a segment's time", 1.1, lambda results: results.median(LIMITED_WAIT), True),
    Target("archive with a filter of its own, of stock", 2, _of(CUSTOM, STOCK)),
    *(Target(f"several {form} streams, of one", 0.9, _of(STREAMS.format(form), LIMIT)) for form in STREAM_FORMS),
    Target(f"{STANDBYS} standbys together, of the same {STANDBYS} one after the other", 1, _of(MANY, LIMIT)),
    Target(f"the slowest of {STANDBYS} standbys, of the fastest", 0.5, lambda results: results.median(FAIR)),
    Target("memory of the prefetch process, MiB", 60, lambda results: results.median(MEMORY_FEW), True),
]


def table(results: Results) -> str:
    """Return a Markdown table: a row a measurement, a column an entrant."""
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row, values in results.rows.items():
        cells = [plain(statistics.median(values[each])) if each in values else "" for each in COLUMNS]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def targets(results: Results) -> str:
    """Return a Markdown table: a row a target, of those that were measured."""
    lines = ["| ours | | measured | reached |", "|---|---|---|---|"]
    for target in TARGETS:
        try:
            lines.append(target.row(results))
        except KeyError:
            continue
    return "\n".join(lines)


def draw(results: Results, file: Path) -> None:
    """Draw the four rows that matter most."""
    charts = [
        (PLAIN, "segments/s when replay costs nothing"),
        (WAIT, "ms that PostgreSQL waits for a segment,\nat 100 ms of replay each"),
        (RECOVERY, "s until a real standby has replayed\nall segments"),
        (HOST_CPU, "ms of CPU a segment, on the Barman host"),
    ]
    drawn = [(row, title) for row, title in charts if row in results.rows]
    pyplot.rcParams["svg.hashsalt"] = "walbasin"
    figure, axes = pyplot.subplots(1, max(1, len(drawn)), figsize=(4 * max(1, len(drawn)), 2.8), squeeze=False)
    for axis, (row, title) in zip(axes[0], drawn):
        entrants = [each for each in COLUMNS if each in results.rows[row] and each not in (MV, LIMIT)]
        values = [results.median(row, each) for each in entrants]
        colours = ["#1f77b4" if each in (OURS, NO_GATE) else "#b0b0b0" for each in entrants]
        bars = axis.barh([COLUMNS[each].replace("`", "") for each in entrants], values, color=colours)
        axis.bar_label(bars, fmt=plain, padding=3)
        axis.margins(x=0.2)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def summary(results: Results) -> str:
    """Return the three lines that README.md shows.

    Raises KeyError when a figure was not measured.
    """
    lines = [
        (PLAIN, "Segments a second"),
        (RECOVERY, "Seconds of a standby's recovery"),
        (HOST_CPU, "CPU a segment on the Barman host, ms"),
    ]
    return "".join(f"- {title}: {_beside(results, row)}\n" for row, title in lines)


def _beside(results: Results, row: str) -> str:
    ours, stock, pgbackrest = (plain(results.median(row, entrant)) for entrant in (OURS, STOCK, PGBACKREST))
    return f"{ours}. Barman's own client {stock}, pgBackRest {pgbackrest}."


def publish(results: Results, is_for_docs: bool) -> None:
    """Print the tables, and write them with a chart.

    Into docs/ and README.md, or into .cache/bench.
    """
    text = f"{table(results)}\n\n{targets(results)}\n"
    print(text)
    folder = docs.DOCS if is_for_docs else docs.ROOT / ".cache" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    draw(results, folder / "chart.svg")
    if is_for_docs:
        docs.write_part(PERFORMANCE, "bench", text)
        docs.write_part(docs.README, "speed", summary(results))
    else:
        (folder / "report.md").write_text(f"![chart](chart.svg)\n\n{text}")
        print(f"The same with a chart: {folder.relative_to(docs.ROOT)}/report.md")
