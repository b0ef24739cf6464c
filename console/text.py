"""Make what is shown fit for a terminal."""

from typing import Optional

# Characters of one line.
MOST = 1000


class ConsoleError(Exception):
    """Report that a host, or the inventory, could not be asked; the text says why."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class NotUnderstood(ConsoleError):
    """Report that a host has answered something else than it was asked for."""

    def __init__(self, host: str, text: str) -> None:
        super().__init__(f"{host}: not understood: {text}")


def printable(text: str, most: int = MOST) -> str:
    """Return a text as one line that a terminal only shows.

    Whatever else a terminal could do with it becomes a blank: control characters (ESC
    and C1, with which sequences begin), line separators, bidirectional controls.
    most: characters.

    >>> printable("a" + chr(27) + "]0;title" + chr(7) + "b" + chr(0x202E) + "c")
    'a ]0;title b c'
    >>> printable("12345", most=4)
    '123…'
    """
    shown = "".join(char if char.isprintable() else " " for char in text[: most + 1]).strip()
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def duration(seconds: Optional[float]) -> str:
    """Return seconds as seconds, minutes or hours, in seven characters or so."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
