"""Measure how long PostgreSQL waits for WAL.

Ours beside Barman's own client, pgBackRest, cp and mv. What counts are the ratios
within one run: the same machine is twice as fast an hour later. Ends with status 1
when what was delivered, or said, is not right, however fast it was.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError

from .contests import CONTESTS
from .field import Field, WrongResult
from .report import Results, publish


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--segments", type=int, default=64, help="how many are fetched in a round")
    options.add_argument("--docs", action="store_true", help="write the result into docs/ and README.md")
    options.add_argument("contests", nargs="*", metavar="contest", help=f"one of {', '.join(CONTESTS)}; default: all")
    chosen = options.parse_args()
    if chosen.docs and chosen.contests:
        options.error("--docs needs all contests: name none")
    if shutil.which("pgbackrest") is None:
        options.error("pgbackrest is not installed: make bench installs it")
    # Told to stop, it ends what it started, as it does by itself.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="walbasin-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        results = run(folder, chosen.contests or list(CONTESTS), chosen.rounds, chosen.segments)
    publish(results, chosen.docs)


def run(folder: Path, contests: list[str], rounds: int, segments: int) -> Results:
    """Return what the contests have measured.

    Ends the benchmark where somebody did something wrong.
    """
    progress(f"a primary writes {segments} segments, for every kind of archive")
    results = Results()
    try:
        with Field(folder) as field:
            field.prepare(segments)
            standby = field.standby()
            for title in contests:
                with CONTESTS[title](field, standby) as entrants:
                    for number in range(rounds):
                        for entrant, measure in entrants.items():
                            os.sync()  # or the disk would still write what the one before has left
                            for row, value in measured(f"{title}, {entrant}", measure).items():
                                results.add(row, entrant, value)
                                progress(f"{title} {number + 1}/{rounds}: {row}: {entrant} {value:.4g}")
    except (AssertionError, CalledProcessError, WrongResult) as error:
        sys.exit(f"make bench failed: {error}")
    progress(f"no contest failed; {field.compared} delivered segments were right, byte for byte")
    return results


def measured(who: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what was measured. Raises WrongResult, which says of whom."""
    try:
        return measure()
    except (AssertionError, CalledProcessError, WrongResult) as error:
        raise WrongResult(f"{who}: {error}") from error


def progress(text: str) -> None:
    """Show what goes on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
