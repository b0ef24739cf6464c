"""What PostgreSQL's log is told, a line for each event."""

import sys


def say(text: str) -> None:
    """One line in the server log; a log that cannot be written is no reason to fail."""
    try:
        print(f"barman-wal-restore: {text}", file=sys.stderr, flush=True)
    except OSError:
        return


def say_absent(name: str, server: str, ends_recovery: bool) -> None:
    """The archive answered that it does not have a file. Most histories that are asked for do not exist."""
    if not name.endswith(".history"):
        end = "recovery ends here" if ends_recovery else "PostgreSQL will ask again"
        say(f"{name}: not in the archive of {server}; {end}")
