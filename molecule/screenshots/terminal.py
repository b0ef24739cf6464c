"""terminal.py PAGE <SAID: a page that looks as the terminal did in the middle of a catch-up, as fab watch said it."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

# rich redraws by going up a line and erasing it, for each that it had drawn.
REDRAWN = re.compile(r"(?:\r|\x1b\[2K|\x1b\[1A)+")
PAGE = """<!DOCTYPE html><meta charset="utf-8">
<style>body {{ margin: 0 }}
pre {{ font: 14px monospace; background: #1e1e1e; color: #d4d4d4; padding: 12px; margin: 0 }}
{stylesheet}</style><pre>{code}</pre>"""


def middle(said: str) -> str:
    """Of all that was drawn with a bar (━), the one in the middle. Raises SystemExit when there is none."""
    drawn = [text for text in REDRAWN.split(said) if "━" in text]
    if not drawn:
        sys.exit("no catch-up was seen: it was over too soon, or never began")
    return drawn[len(drawn) // 2]


console = Console(record=True, width=80, file=io.StringIO())
console.print(Text.from_ansi(middle(sys.stdin.read())))
Path(sys.argv[1]).write_text(console.export_html(code_format=PAGE))
