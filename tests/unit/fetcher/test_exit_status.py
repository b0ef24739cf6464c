import itertools

import pytest
from walbasin.policy import (
    ABSENT,
    DELIVERED,
    HOLE,
    INVALID,
    NOT_TRIED,
    RECOVERY,
    STANDBY,
    UNKNOWN,
    UNUSABLE,
    Verdict,
    decide,
)

OUTCOMES = [DELIVERED, ABSENT, HOLE, UNKNOWN, NOT_TRIED, INVALID, UNUSABLE]
SLEEP = 7.0


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (DELIVERED, Verdict(0)),
        (ABSENT, Verdict(1)),
        (HOLE, Verdict(1)),
        (UNKNOWN, Verdict(2, SLEEP)),
        (NOT_TRIED, Verdict(2)),
        (INVALID, Verdict(3, SLEEP)),
        (UNUSABLE, Verdict(4)),
    ],
)
def test_a_standby_is_told_at_once_and_can_ask_again(outcome: str, verdict: Verdict) -> None:
    assert decide(outcome, STANDBY, SLEEP, attempt=0, patience=600) == verdict


@pytest.mark.parametrize(
    ("outcome", "while_patient", "in_the_end"),
    [
        (DELIVERED, Verdict(0), Verdict(0)),
        (ABSENT, Verdict(1), Verdict(1)),  # the end of the archive is where the recovery is meant to end
        (HOLE, Verdict(None, 1.0), Verdict(200)),
        (UNKNOWN, Verdict(None, 1.0), Verdict(200)),
        # Any status up to 125 would end the recovery early, so what cannot be used is no "3" here either.
        (INVALID, Verdict(None, 1.0), Verdict(200)),
        (UNUSABLE, Verdict(200), Verdict(200)),
    ],
)
def test_a_point_in_time_recovery_waits_or_stops(outcome: str, while_patient: Verdict, in_the_end: Verdict) -> None:
    assert decide(outcome, RECOVERY, SLEEP, attempt=0, patience=600) == while_patient
    assert decide(outcome, RECOVERY, SLEEP, attempt=9, patience=0) == in_the_end
    assert decide(outcome, RECOVERY, SLEEP, attempt=9, patience=-1) == in_the_end


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_standby_is_never_given_what_postgresql_takes_for_fatal(outcome: str) -> None:
    status = decide(outcome, STANDBY).status
    assert status is not None
    assert status <= 125


@pytest.mark.parametrize("outcome", [HOLE, UNKNOWN, INVALID, UNUSABLE])
def test_no_trouble_ends_a_point_in_time_recovery_early(outcome: str) -> None:
    for patience, attempt in itertools.product((-1, 0, 0.1, 600), (0, 1, 9999)):
        status = decide(outcome, RECOVERY, attempt=attempt, patience=patience).status
        assert status is None or status > 125


def test_pauses_grow_to_a_minute_and_never_beyond_what_is_left() -> None:
    pauses = [decide(UNKNOWN, RECOVERY, attempt=attempt, patience=600).pause for attempt in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert decide(UNKNOWN, RECOVERY, attempt=6, patience=2.5).pause == 2.5


def test_minus_s_is_no_business_of_a_point_in_time_recovery() -> None:
    assert decide(UNKNOWN, RECOVERY, sleep=100, patience=600) == decide(UNKNOWN, RECOVERY, sleep=0, patience=600)
