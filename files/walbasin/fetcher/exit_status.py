"""Decide what barman-wal-restore ends with.

PostgreSQL reads 1 to 125 as "not in the archive" and everything above as FATAL.
On a standby "not in the archive" is harmless: it streams, or asks again. In a
point-in-time recovery it is the end of recovery: PostgreSQL promotes there and then,
and what follows is lost. FATAL loses nothing while the signal file is there (a restart
resumes), but must not happen without one: at the end of recovery PostgreSQL removes the
signal file, then still asks for a .history, and would start on the old timeline.
"""

from typing import NamedTuple, Optional

from walbasin.policy import (
    ABANDONED,
    ABSENT,
    DELIVERED,
    GAP,
    INVALID,
    LOCAL_ERROR,
    SKIPPED,
    STANDBY,
    UNCONFIRMED,
    UNHEARD,
    UNKNOWN,
)

# What a standby is told.
STANDBY_STATUS = {
    DELIVERED: 0,
    ABSENT: 1,
    ABANDONED: 1,
    GAP: 1,
    UNCONFIRMED: 1,
    UNKNOWN: 2,
    UNHEARD: 2,
    SKIPPED: 2,
    INVALID: 3,
    LOCAL_ERROR: 4,
}
# PostgreSQL stops, and can be started again.
FATAL_STATUS = 200
# Seconds between two attempts of a point-in-time recovery, at most.
LONGEST_PAUSE = 60.0


class Verdict(NamedTuple):
    """Pause for `pause` seconds, then end with `status` (None: try again)."""

    status: Optional[int]
    pause: float = 0.0


def decide(outcome: str, mode: str, sleep: float = 0.0, attempt: int = 0, time_left: float = 0.0) -> Verdict:
    """Return what follows from the outcome of attempt number `attempt` (from 0).

    sleep: -s in seconds; time_left: how many seconds of --retry are left.

    >>> decide(UNKNOWN, STANDBY, sleep=10)
    Verdict(status=2, pause=10)
    >>> decide(UNKNOWN, "recovery", attempt=3, time_left=500)
    Verdict(status=None, pause=8.0)
    >>> decide(UNKNOWN, "recovery", time_left=0)
    Verdict(status=200, pause=0.0)
    """
    if mode == STANDBY or outcome in (DELIVERED, ABSENT):
        return Verdict(STANDBY_STATUS[outcome], sleep if outcome in (UNKNOWN, INVALID) else 0.0)
    if outcome == LOCAL_ERROR or time_left <= 0:
        return Verdict(FATAL_STATUS)
    return Verdict(None, min(2.0 ** min(attempt, 6), LONGEST_PAUSE, time_left))
