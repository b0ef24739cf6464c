"""A drill's report: one page that needs nothing else."""

import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jinja2

from .drill import Evidence, Sample

TEMPLATE = Path(__file__).parents[1] / "templates"
# The right and the top leave room for half a dot.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 70, 6, 10, 24


class Line(NamedTuple):
    """One of the picture's. `points`: of an SVG polyline; none when nothing is known of it."""

    title: str
    kind: str
    points: str


class Dot(NamedTuple):
    """Where the standby was when `segments` had been restored since the last dot."""

    x: float
    y: float
    segments: int


class Scale:
    """From seconds and bytes to the picture."""

    def __init__(self, samples: list[Sample]) -> None:
        known = [
            each
            for sample in samples
            for each in (sample.replayed, sample.primary, sample.archived)
            if each is not None
        ]
        self.end = max(samples[-1].moment, 1.0)
        self.low, self.high = min(known), max(*known, min(known) + 1)

    def x(self, moment: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * moment / self.end, 1)

    def y(self, position: int) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (position - self.low) / (self.high - self.low), 1)


def lines(evidence: Evidence, scale: Scale) -> list[Line]:
    """Where primary, archive and standby were, over time."""
    kinds = (("primary", "primary"), ("archive on Barman", "archived"), ("standby, replayed", "replayed"))
    return [
        Line(
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
    """Where segments were restored."""
    return [
        Dot(scale.x(after.moment), scale.y(after.replayed), after.restored - before.restored)
        for before, after in pairwise(evidence.samples)
        if after.restored > before.restored
    ]


def position(number: int) -> str:
    """As PostgreSQL writes it."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def html(evidence: Evidence) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    scale = Scale(evidence.samples)
    template = environment.get_template("drill.html.j2")
    return template.render(
        evidence=evidence,
        began=time.strftime("%Y-%m-%d at %H:%M:%S %Z", time.localtime(evidence.began)),
        lines=[line for line in lines(evidence, scale) if line.points],
        dots=dots(evidence, scale),
        restored=evidence.samples[-1].restored - evidence.samples[0].restored,
        scale=scale,
        position=position,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        top=TOP,
        bottom=BOTTOM,
    )
