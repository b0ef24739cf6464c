"""Show rows to people: a table that fits 80 columns, with or without colour."""

from typing import Optional

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .status import DOWN, PRIMARY, RESTORING, STREAMING, UNKNOWN, Row
from .text import duration, printable

# Columns and their widths, in characters. Of 80 they leave ten to a line of the name.
WIDTHS = {
    "\nrole": 9,
    "behind\nprimary": 7,
    "behind\nBarman": 7,
    "behind\nin time": 7,
    "spool\nfiles": 5,
    "fetch\nper s": 7,
    "replay\nper s": 7,
    "slower\nside": 6,
    "caught\nup in": 6,
}
STYLES = {STREAMING: "green", RESTORING: "yellow", PRIMARY: "cyan", DOWN: "red", UNKNOWN: "red"}
# Characters.
BAR_WIDTH = 40


def table(rows: list[Row], starts: dict[str, int] | None = None) -> RenderableType:
    """Return one line for each standby, and below them what is wrong.

    starts: the lag (bytes) with which each catch-up began; with it each has a bar.
    """
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("\nstandby", overflow="fold")
    for name, width in WIDTHS.items():
        shown.add_column(name, no_wrap=True, min_width=width)
    for row in rows:
        shown.add_row(_line(row.standby), Text(row.role, STYLES[row.role]), *_cells(row))
    lines: list[RenderableType] = [shown]
    if starts:
        lines.append(bars(rows, starts))
    lines += [_line(f"{row.standby}: {problem}", "red") for row in rows for problem in row.problems]
    lines += [_line(f"{row.standby}: {note}", "yellow") for row in rows for note in row.notes]
    return Group(*lines)


def _line(text: str, style: str = "") -> Text:
    """Return a host's words as they are: in a plain string, rich would find markup."""
    return Text(printable(text), style)


def _cells(row: Row) -> list[str]:
    """Return the cells behind the role, in the order of WIDTHS."""
    return [
        size(row.lag_bytes if row.role == STREAMING else None),
        size(row.lag_bytes if row.role == RESTORING else None),
        duration(row.lag_seconds),
        str(row.spool_segments),
        size(row.fetch_rate),
        size(row.replay_rate),
        row.bottleneck or "-",
        duration(row.eta),
    ]


def note_starts(starts: dict[str, int], rows: list[Row]) -> None:
    """Keep in `starts` the largest lag (bytes) of each catch-up, until it is over."""
    for row in rows:
        if row.lag_bytes is None or row.role != RESTORING:
            starts.pop(row.standby, None)
        else:
            starts[row.standby] = max(starts.get(row.standby, 0), row.lag_bytes)


def bars(rows: list[Row], starts: dict[str, int]) -> RenderableType:
    """Return a bar for each catch-up: how much of its lag at the start is caught up."""
    shown = Table.grid(padding=(0, 1))
    for row in rows:
        if row.eta is not None and row.standby in starts:
            start = starts[row.standby]
            done = max(0, start - (row.lag_bytes or 0))
            progress = ProgressBar(total=max(start, 1), completed=done, width=BAR_WIDTH, complete_style="green")
            shown.add_row(_line(row.standby), progress, _line(row.last_restored))
    return shown


def size(amount: Optional[float]) -> str:
    """Return bytes with their unit, in seven characters at most."""
    if amount is None:
        return "-"
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}" if amount < 9.95 and unit != "B" else f"{amount:.0f} {unit}"
