"""Write a page that looks as the terminal did in the middle of a catch-up.

Called as terminal.py PAGE, with the output of fab watch at standard input.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

# To draw anew, rich goes up a line and erases it, for each line that it had drawn.
REDRAW = re.compile(r"(?:\r|\x1b\[2K|\x1b\[1A)+")
# The page is as wide as its text, so that the picture can be cut to it.
PAGE = """<!DOCTYPE html><meta charset="utf-8">
<style>html, body {{ width: max-content; margin: 0 }}
pre {{ font: 14px monospace; background: {background}; color: {foreground}; padding: 12px; margin: 0 }}
{stylesheet}</style><pre>{code}</pre>"""


def middle(output: str) -> str:
    """Return the middle one of all tables that were drawn with a bar (━).

    Raises SystemExit when there is none.
    """
    drawn = [text for text in REDRAW.split(output) if "━" in text]
    if not drawn:
        sys.exit("no catch-up was seen: it was over too soon, or never began")
    return drawn[len(drawn) // 2]


console = Console(record=True, width=80, file=io.StringIO())
console.print(Text.from_ansi(middle(sys.stdin.read()).rstrip()), end="")
Path(sys.argv[1]).write_text(console.export_html(theme=MONOKAI, code_format=PAGE))
