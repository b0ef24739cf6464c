import pytest
from walbasin.policy import ABSENT, GAP, RECOVERY, STANDBY, UNKNOWN, Evidence, judge_absence

HELD = "000000010000000000000009"
PROVED = Evidence(neighbour=HELD)


@pytest.mark.parametrize(
    ("evidence", "in_recovery", "on_standby"),
    [
        (Evidence(), UNKNOWN, ABSENT),
        (PROVED, ABSENT, ABSENT),
        (PROVED._replace(is_passive=True), UNKNOWN, ABSENT),
        (PROVED._replace(later=HELD), GAP, GAP),
        (Evidence(later=HELD), GAP, GAP),
        (Evidence(is_in_pg_wal=True), ABSENT, ABSENT),
        (Evidence(is_on_parent=True), ABSENT, ABSENT),
        (PROVED._replace(is_listed=True), UNKNOWN, ABSENT),
        (PROVED._replace(is_on_parent=True, later=HELD), ABSENT, ABSENT),
    ],
    ids=str,
)
def test_absence(evidence: Evidence, in_recovery: str, on_standby: str) -> None:
    assert judge_absence(HELD, RECOVERY, evidence)[0] == in_recovery
    assert judge_absence(HELD, STANDBY, evidence)[0] == on_standby


def test_missing_history() -> None:
    outcome, text = judge_absence("00000002.history", RECOVERY, PROVED._replace(later=HELD))
    assert (outcome, text) == (GAP, f"the archive has WAL of this timeline, but not its history: it holds {HELD}")


@pytest.mark.parametrize("evidence", [Evidence(), PROVED._replace(is_passive=True), PROVED._replace(later=HELD)])
def test_cause_in_words(evidence: Evidence) -> None:
    assert judge_absence(HELD, RECOVERY, evidence)[1]
