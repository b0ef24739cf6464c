"""Name what can become of a request, and how a data directory is being recovered.

The calls of restore_command and the prefetch process both speak in these words.
"""

from typing import NamedTuple, Tuple

# Recovery modes. STANDBY stands for "no signal file at all" as well.
STANDBY, RECOVERY = "standby", "recovery"

# Outcomes.
DELIVERED = "delivered"
ABSENT = "absent"  # the archive answered: not there
GAP = "gap"  # not there, but the archive holds what only comes after it
ABANDONED = "abandoned"  # it may be there, but this server could not start with it
UNKNOWN = "unknown"  # could not find out
SKIPPED = "skipped"  # not tried: Barman could not be reached a moment ago
INVALID = "invalid"  # what came failed verification
LOCAL_ERROR = "local_error"  # wrong usage, or a disk that cannot be written


class Evidence(NamedTuple):
    """Hold what is known about a file that the archive did not have.

    is_in_pg_wal: PostgreSQL has it itself. is_listed: the archive lists it, so it came
    meanwhile. is_on_parent: it belongs to a parent of its timeline, where PostgreSQL
    asks for it next. later: what the archive holds that only comes after it. neighbour:
    a segment with which the archive has shown that it is this cluster's. is_passive:
    the archive is a copy of another Barman's, and may be behind.
    """

    is_in_pg_wal: bool = False
    is_listed: bool = False
    is_on_parent: bool = False
    later: str = ""
    neighbour: str = ""
    is_passive: bool = False


def judge_absence(name: str, mode: str, evidence: Evidence) -> Tuple[str, str]:
    """Return the outcome for file `name`, which the archive does not have, and why.

    In a point-in-time recovery ABSENT ends the recovery. So it must be proved: the
    archive has shown that it is this cluster's, and holds nothing later.

    >>> judge_absence("000000010000000000000005", RECOVERY, Evidence())[0]
    'unknown'
    >>> before = "000000010000000000000004"
    >>> judge_absence("000000010000000000000005", RECOVERY, Evidence(neighbour=before))
    ('absent', 'recovery ends here')
    """
    is_history = name.endswith(".history")
    gap = "the archive has WAL of this timeline, but not its history" if is_history else "the archive has a gap here"
    rules = (
        (evidence.is_in_pg_wal, ABSENT, "PostgreSQL has it in pg_wal"),  # and looks there next
        (evidence.is_listed and mode != STANDBY, UNKNOWN, "not found at first, but the archive lists it now"),
        (evidence.is_on_parent, ABSENT, "PostgreSQL asks for it on the parent timeline next"),
        (evidence.later, GAP, f"{gap}: it holds {evidence.later}"),
        (mode == STANDBY, ABSENT, ""),
        (
            not evidence.neighbour,
            UNKNOWN,
            "the archive does not have it, nor anything before it: is it this cluster's, and all there?",
        ),
        (
            evidence.is_passive,
            UNKNOWN,
            "this Barman is a passive copy, and does not have it yet; the Barman that it copies may",
        ),
        (True, ABSENT, "recovery ends here"),
    )
    return next((outcome, text) for holds, outcome, text in rules if holds)
