"""Rows for people: a table that fits 80 columns, with or without colour."""

from typing import Optional

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .standing import Row

# What all but the name need; of 80 columns that leaves fifteen to a line of it.
WIDTHS = {"role": 9, "lag": 8, "behind": 6, "basin": 5, "fetch/s": 8, "replay/s": 8, "slow": 6, "ETA": 7}
STYLES = {"streaming": "green", "restoring": "yellow", "primary": "red", "down": "red"}


def table(rows: list[Row], starts: dict[str, int] | None = None) -> RenderableType:
    """One line a standby, and below it what is wrong. starts: the lag (bytes) at which each was seen first."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("standby", overflow="fold")
    for name, width in WIDTHS.items():
        shown.add_column(name, no_wrap=True, min_width=width)
    for row in rows:
        shown.add_row(
            row.standby,
            Text(row.role, STYLES[row.role]),
            size(row.lag_bytes),
            duration(row.lag_seconds),
            str(row.basin),
            size(row.fetch_rate),
            size(row.replay_rate),
            row.bottleneck or "-",
            duration(row.eta),
        )
    lines: list[RenderableType] = [shown]
    lines += [bar(row, starts[row.standby]) for row in rows if starts and row.eta is not None and row.standby in starts]
    lines += [Text(f"{row.standby}: {problem}", "red") for row in rows for problem in row.problems]
    lines += [Text(f"{row.standby}: {note}", "yellow") for row in rows for note in row.notes]
    return Group(*lines)


def note_starts(starts: dict[str, int], rows: list[Row]) -> None:
    """Where each catch-up began: the largest lag (bytes) since it began; forgotten when it is over."""
    for row in rows:
        if row.lag_bytes is None or row.role != "restoring":
            starts.pop(row.standby, None)
        else:
            starts[row.standby] = max(starts.get(row.standby, 0), row.lag_bytes)


def bar(row: Row, start: int) -> RenderableType:
    """How much of the way a standby has caught up."""
    line = Table.grid(padding=(0, 1))
    done = max(0, start - (row.lag_bytes or 0))
    progress = ProgressBar(total=max(start, 1), completed=done, width=40, complete_style="green")
    line.add_row(row.standby, progress, row.last_restored)
    return line


def size(amount: Optional[float]) -> str:
    """Bytes, in four characters or so."""
    if amount is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.0f} TiB"


def duration(seconds: Optional[float]) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
