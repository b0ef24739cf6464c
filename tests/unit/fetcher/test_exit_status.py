import itertools

import pytest
from walbasin.fetcher.exit_status import Verdict, decide
from walbasin.policy import (
    ABANDONED,
    ABSENT,
    DELIVERED,
    GAP,
    INVALID,
    LOCAL_ERROR,
    RECOVERY,
    SKIPPED,
    STANDBY,
    UNCONFIRMED,
    UNHEARD,
    UNKNOWN,
)

OUTCOMES = [DELIVERED, ABSENT, ABANDONED, GAP, UNCONFIRMED, UNKNOWN, UNHEARD, SKIPPED, INVALID, LOCAL_ERROR]
SLEEP = 7.0


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (DELIVERED, Verdict(0)),
        (ABSENT, Verdict(1)),
        (ABANDONED, Verdict(1)),
        (GAP, Verdict(1)),
        (UNCONFIRMED, Verdict(1)),
        (UNKNOWN, Verdict(2, SLEEP)),
        (UNHEARD, Verdict(2)),
        (SKIPPED, Verdict(2)),
        (INVALID, Verdict(3, SLEEP)),
        (LOCAL_ERROR, Verdict(4)),
    ],
)
def test_standby_verdicts(outcome: str, verdict: Verdict) -> None:
    assert decide(outcome, STANDBY, SLEEP, attempt=0, time_left=600) == verdict


@pytest.mark.parametrize(
    ("outcome", "with_time_left", "in_the_end"),
    [
        (DELIVERED, Verdict(0), Verdict(0)),
        (ABSENT, Verdict(1), Verdict(1)),  # the end of the archive is where the recovery is meant to end
        (GAP, Verdict(None, 1.0), Verdict(200)),
        (UNKNOWN, Verdict(None, 1.0), Verdict(200)),
        (UNCONFIRMED, Verdict(None, 1.0), Verdict(200)),
        (UNHEARD, Verdict(None, 1.0), Verdict(200)),
        # Stop the server for unusable WAL as well: any status up to 125 would end the
        # recovery early.
        (INVALID, Verdict(None, 1.0), Verdict(200)),
        (LOCAL_ERROR, Verdict(200), Verdict(200)),
    ],
)
def test_recovery_verdicts(outcome: str, with_time_left: Verdict, in_the_end: Verdict) -> None:
    assert decide(outcome, RECOVERY, SLEEP, attempt=0, time_left=600) == with_time_left
    assert decide(outcome, RECOVERY, SLEEP, attempt=9, time_left=0) == in_the_end
    assert decide(outcome, RECOVERY, SLEEP, attempt=9, time_left=-1) == in_the_end


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_no_fatal_status_on_standby(outcome: str) -> None:
    status = decide(outcome, STANDBY).status
    assert status is not None
    assert status <= 125


@pytest.mark.parametrize("outcome", [GAP, UNCONFIRMED, UNKNOWN, UNHEARD, INVALID, LOCAL_ERROR])
def test_no_early_end_of_recovery(outcome: str) -> None:
    for time_left, attempt in itertools.product((-1, 0, 0.1, 600), (0, 1, 9999)):
        status = decide(outcome, RECOVERY, attempt=attempt, time_left=time_left).status
        assert status is None or status > 125


def test_retry_pauses() -> None:
    pauses = [decide(UNKNOWN, RECOVERY, attempt=attempt, time_left=600).pause for attempt in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert decide(UNKNOWN, RECOVERY, attempt=6, time_left=2.5).pause == 2.5


def test_sleep_ignored_in_recovery() -> None:
    assert decide(UNKNOWN, RECOVERY, sleep=100, time_left=600) == decide(UNKNOWN, RECOVERY, sleep=0, time_left=600)
