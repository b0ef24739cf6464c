"""What PostgreSQL's log is told, a line for each event."""

import sys

ASKS_AGAIN = "PostgreSQL will ask again"


def say(text: str) -> None:
    """One line in the server log; a log that cannot be written is no reason to fail."""
    try:
        print(f"barman-wal-restore: {text}", file=sys.stderr, flush=True)
    except OSError:
        return


def say_absent(name: str, server: str, next_step: str) -> None:
    """The archive answered that it does not have a file. Most histories that are asked for do not exist."""
    if not name.endswith(".history"):
        say(f"{name}: not in the archive of {server}; {next_step}")
