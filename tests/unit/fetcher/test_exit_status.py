import itertools

import pytest
from walbasin.fetcher.exit_status import Verdict, decide
from walbasin.policy import ABSENT, DELIVERED, GAP, INVALID, LOCAL_ERROR, RECOVERY, SKIPPED, STANDBY, UNKNOWN

OUTCOMES = [DELIVERED, ABSENT, GAP, UNKNOWN, SKIPPED, INVALID, LOCAL_ERROR]
SLEEP = 7.0


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (DELIVERED, Verdict(0)),
        (ABSENT, Verdict(1)),
        (GAP, Verdict(1)),
        (UNKNOWN, Verdict(2, SLEEP)),
        (SKIPPED, Verdict(2)),
        (INVALID, Verdict(3, SLEEP)),
        (LOCAL_ERROR, Verdict(4)),
    ],
)
def test_a_standby_is_told_at_once_and_can_ask_again(outcome: str, verdict: Verdict) -> None:
    assert decide(outcome, STANDBY, SLEEP, attempt=0, time_left=600) == verdict


@pytest.mark.parametrize(
    ("outcome", "with_time_left", "in_the_end"),
    [
        (DELIVERED, Verdict(0), Verdict(0)),
        (ABSENT, Verdict(1), Verdict(1)),  # the end of the archive is where the recovery is meant to end
        (GAP, Verdict(None, 1.0), Verdict(200)),
        (UNKNOWN, Verdict(None, 1.0), Verdict(200)),
        # Any status up to 125 would end the recovery early, so what cannot be used is no "3" here either.
        (INVALID, Verdict(None, 1.0), Verdict(200)),
        (LOCAL_ERROR, Verdict(200), Verdict(200)),
    ],
)
def test_a_point_in_time_recovery_waits_or_stops(outcome: str, with_time_left: Verdict, in_the_end: Verdict) -> None:
    assert decide(outcome, RECOVERY, SLEEP, attempt=0, time_left=600) == with_time_left
    assert decide(outcome, RECOVERY, SLEEP, attempt=9, time_left=0) == in_the_end
    assert decide(outcome, RECOVERY, SLEEP, attempt=9, time_left=-1) == in_the_end


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_standby_is_never_given_what_postgresql_takes_for_fatal(outcome: str) -> None:
    status = decide(outcome, STANDBY).status
    assert status is not None
    assert status <= 125


@pytest.mark.parametrize("outcome", [GAP, UNKNOWN, INVALID, LOCAL_ERROR])
def test_no_trouble_ends_a_point_in_time_recovery_early(outcome: str) -> None:
    for time_left, attempt in itertools.product((-1, 0, 0.1, 600), (0, 1, 9999)):
        status = decide(outcome, RECOVERY, attempt=attempt, time_left=time_left).status
        assert status is None or status > 125


def test_pauses_grow_to_a_minute_and_never_beyond_what_is_left() -> None:
    pauses = [decide(UNKNOWN, RECOVERY, attempt=attempt, time_left=600).pause for attempt in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert decide(UNKNOWN, RECOVERY, attempt=6, time_left=2.5).pause == 2.5


def test_minus_s_is_no_business_of_a_point_in_time_recovery() -> None:
    assert decide(UNKNOWN, RECOVERY, sleep=100, time_left=600) == decide(UNKNOWN, RECOVERY, sleep=0, time_left=600)
