"""What barman-wal-restore ends with. PostgreSQL reads 1 to 125 as "not in the archive" and everything above as FATAL.

On a standby "not in the archive" is harmless: it streams, or asks again. In a point-in-time recovery it is the end of
recovery: PostgreSQL promotes there and then, and what follows is lost. FATAL, in turn, loses nothing while the signal
file is there (a restart resumes), but must not happen without one: at the end of recovery PostgreSQL removes
the signal file, then still asks for a .history, and would start on the old timeline.
"""

from typing import NamedTuple, Optional

# How the data directory is being recovered. STANDBY stands for "no signal file at all" as well.
STANDBY, RECOVERY = "standby", "recovery"

DELIVERED = "delivered"
ABSENT = "absent"  # the archive answered: not there
HOLE = "hole"  # not there, but the archive holds what comes after it
UNKNOWN = "unknown"  # could not find out
NOT_TRIED = "not tried"  # nor was it tried: Barman could not be reached a moment ago
INVALID = "invalid"  # what came failed verification
UNUSABLE = "unusable"  # wrong usage, or a destination that cannot be written

STANDBY_STATUS = {DELIVERED: 0, ABSENT: 1, HOLE: 1, UNKNOWN: 2, NOT_TRIED: 2, INVALID: 3, UNUSABLE: 4}
STOP = 200
LONGEST_PAUSE = 60.0


class Verdict(NamedTuple):
    """Pause for `pause` seconds, then end with `status`, or try again where it is None."""

    status: Optional[int]
    pause: float = 0.0


def decide(outcome: str, mode: str, sleep: float = 0.0, attempt: int = 0, patience: float = 0.0) -> Verdict:
    """What follows from the outcome of attempt number `attempt` (from 0).

    sleep is -s in seconds; patience is how many seconds of --retry are left.
    """
    if mode == STANDBY or outcome in (DELIVERED, ABSENT):
        return Verdict(STANDBY_STATUS[outcome], sleep if outcome in (UNKNOWN, INVALID) else 0.0)
    if outcome == UNUSABLE or patience <= 0:
        return Verdict(STOP)
    return Verdict(None, min(2.0 ** min(attempt, 6), LONGEST_PAUSE, patience))
