"""Test what people see of the standbys."""

import json

import pytest

from console import table
from console.status import Row
from console.text import duration
from tests.support.console_standby import (
    FORBIDDEN,
    HOSTILE,
    MIB,
    shown,
)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (9.94 * MIB, "9.9 MiB"),
        (9.96 * MIB, "10 MiB"),
        (999 * MIB, "999 MiB"),
        (1000 * MIB, "1.0 GiB"),
        (1 << 34, "16 GiB"),
        (1 << 44, "16 TiB"),
        (1 << 54, "16384 TiB"),
    ],
)
def test_size(amount: float, text: str) -> None:
    assert table.size(amount) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (119, "119 s"), (120, "2 min"), (7200, "2 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


BUSY = Row(
    standby="chris.example.com",
    server="angus",
    role="restoring",
    lag_bytes=900 * MIB,
    lag_seconds=100.0,
    last_restored="0" * 24,
    spool_segments=8,
    fetch_rate=100 * MIB,
    replay_rate=200 * MIB,
    bottleneck="replay",
    eta=7000.0,
)


def test_table_in_80_columns_without_colour() -> None:
    text = shown([BUSY], {"chris.example.com": 1200 * MIB})
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    for words in ("chris.exa", "mple.com", "restoring", "900 MiB", "replay", "117 min"):
        assert words in text
    assert any("━" in line for line in lines), "the bar"


@pytest.mark.parametrize(
    ("role", "cells"), [("streaming", ["900 MiB", "-"]), ("restoring", ["-", "900 MiB"]), ("down", ["-", "-"])]
)
def test_table_columns_behind_primary_and_behind_barman(role: str, cells: list[str]) -> None:
    first, second, line = shown([BUSY._replace(standby="chris", role=role)]).splitlines()
    starts = [second.index("primary"), second.index("Barman")]
    assert [first[start:].split()[0] for start in starts] == ["behind", "behind"]
    assert [line[start : start + 8].strip() for start in starts] == cells


def test_table_with_problems_below() -> None:
    text = shown([Row("chris", "angus", "down", problems=("asleep",), notes=("slow",))])
    assert "chris: asleep" in text
    assert "chris: slow" in text


def test_aligned_bars_of_several_standbys() -> None:
    rows = [BUSY, BUSY._replace(standby="dora")]
    bars = shown(rows, {row.standby: 1200 * MIB for row in rows}).splitlines()[-2:]
    assert len({bar.index("━") for bar in bars}) == 1


def test_catch_up_start() -> None:
    """Start from the largest lag, until the standby streams again."""
    starts: dict[str, int] = {}
    for lag in (10, 20, 5):
        table.note_starts(starts, [BUSY._replace(lag_bytes=lag)])
    assert starts == {"chris.example.com": 20}
    table.note_starts(starts, [BUSY._replace(role="streaming")])
    assert starts == {}


def test_row_as_json() -> None:
    assert json.loads(json.dumps(BUSY._asdict()))["role"] == "restoring"


def test_markup_in_a_table() -> None:
    text = shown([BUSY._replace(standby="[red]x[/]", problems=(HOSTILE,), last_restored="[/]")], {"[red]x[/]": 1 << 40})
    assert "[link=http://x]:smile:" in text.replace("\n", "")
    assert "[red]x[/]" in text
    assert FORBIDDEN.search(text) is None
