"""Write a drill's report: one page that needs nothing else."""

import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jinja2

from .drill import Evidence, Sample
from .text import printable

TEMPLATE = Path(__file__).parents[1] / "templates"
# Characters of one value in the page: the points of a line are many.
MOST = 1 << 20
# Pixels. The right and the top leave room for half a dot.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 70, 6, 10, 24


class Polyline(NamedTuple):
    """Hold one line of the picture.

    points: of an SVG polyline; empty when nothing is known of it.
    """

    title: str
    kind: str
    points: str


class Dot(NamedTuple):
    """Hold where the standby was, with `segments` more than at the last dot."""

    x: float
    y: float
    segments: int


class Scale:
    """Convert seconds and bytes to pixels of the picture."""

    def __init__(self, samples: list[Sample]) -> None:
        known = [
            position
            for sample in samples
            for position in (sample.replayed, sample.primary, sample.archived)
            if position is not None
        ]
        self.end = max(samples[-1].moment, 1.0)
        self.low, self.high = min(known), max(*known, min(known) + 1)

    def x(self, moment: float) -> float:
        """Return the place of a moment, in seconds since the drill began."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * moment / self.end, 1)

    def y(self, position: int) -> float:
        """Return the height of a position, in bytes."""
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (position - self.low) / (self.high - self.low), 1)


def polylines(evidence: Evidence, scale: Scale) -> list[Polyline]:
    """Return the lines of primary, archive and standby over time."""
    kinds = (("primary", "primary"), ("archive on Barman", "archived"), ("standby, replayed", "replayed"))
    return [
        Polyline(
            title,
            kind,
            " ".join(
                f"{scale.x(sample.moment)},{scale.y(getattr(sample, kind))}"
                for sample in evidence.samples
                if getattr(sample, kind) is not None
            ),
        )
        for title, kind in kinds
    ]


def dots(evidence: Evidence, scale: Scale) -> list[Dot]:
    """Return a dot for each sample before which segments were restored."""
    return [
        Dot(scale.x(after.moment), scale.y(after.replayed), after.restored - before.restored)
        for before, after in pairwise(evidence.samples)
        if after.restored > before.restored
    ]


def lsn(position: int) -> str:
    """Return a position (bytes) as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def html(evidence: Evidence) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: printable(value, MOST) if isinstance(value, str) else value,
    )
    scale = Scale(evidence.samples)
    template = environment.get_template("drill.html.j2")
    return template.render(
        evidence=evidence,
        began=time.strftime("%Y-%m-%d at %H:%M:%S %Z", time.localtime(evidence.began)),
        polylines=[line for line in polylines(evidence, scale) if line.points],
        dots=dots(evidence, scale),
        restored=evidence.samples[-1].restored - evidence.samples[0].restored,
        scale=scale,
        lsn=lsn,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        top=TOP,
        bottom=BOTTOM,
    )
