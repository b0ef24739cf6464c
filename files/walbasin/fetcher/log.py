"""Write to PostgreSQL's log, a line for each event."""

import sys

# What a standby does after any status but 0.
ASKS_AGAIN = "PostgreSQL will ask again"


def log(text: str) -> None:
    """Write one line; a log that cannot be written is no reason to fail."""
    try:
        print(f"barman-wal-restore: {text}", file=sys.stderr, flush=True)
    except OSError:
        return


def describe(error: Exception) -> str:
    """Return an error in words: of one from the disk, the file and the reason.

    >>> describe(OSError(None, "too short", "pg_control")), describe(ValueError("odd"))
    ('pg_control: too short', 'odd')
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def log_absent(name: str, server: str, next_step: str) -> None:
    """Write that the archive does not have a file, unless it is a history.

    Say nothing of histories: most of those that PostgreSQL asks for do not exist.
    """
    if not name.endswith(".history"):
        log(f"{name}: not in the archive of {server}; {next_step}")
