import pytest
from walbasin.fetcher.exit_status import decide
from walbasin.policy import (
    ABSENT,
    DELIVERED,
    GAP,
    INVALID,
    RECOVERY,
    SKIPPED,
    STANDBY,
    UNCONFIRMED,
    UNHEARD,
    UNKNOWN,
    Evidence,
    HostAnswer,
    judge_absence,
    judge_answers,
)

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


def test_unproved_host_named() -> None:
    evidence = PROVED._replace(neighbour="", unproved="barman2")
    assert judge_absence(HELD, RECOVERY, evidence)[1].startswith("the archive on barman2 does not have it")


# --- What several hosts say

A_DEAD = "ssh to a failed: Connection refused"


def answers(*said: str) -> list[HostAnswer]:
    """Return what hosts a, b, … say: an outcome, and behind it whom it copies."""
    made = []
    for host, words in zip("abcdefgh", said, strict=False):
        outcome, *copied = words.split(" ")
        detail = {UNKNOWN: f"ssh to {host} failed: Connection refused", INVALID: "it is short"}.get(outcome, "")
        made.append(HostAnswer(host, outcome, detail, *copied))
    return made


# The rows of the decision table, by their numbers: what A and B say, the outcome, the
# status on a standby and whether it sleeps (-s), and the words that must be told. In a
# point-in-time recovery only 0 and 1 are as on a standby, and 1 only for ABSENT: the
# rest is tried again, then 200.
TABLE = [
    ("1", [DELIVERED], DELIVERED, 0, False, ""),
    ("2", [ABSENT, f"{DELIVERED} a"], DELIVERED, 0, False, "a has none, b has it: a gap there"),
    ("3", [ABSENT, ABSENT], ABSENT, 1, False, ""),
    ("3, passive", [ABSENT, f"{ABSENT} a"], ABSENT, 1, False, ""),
    ("4", [ABSENT, f"{UNKNOWN} a"], ABSENT, 1, False, ""),
    ("4, of another", [ABSENT, f"{UNKNOWN} c"], UNCONFIRMED, 1, False, "a has none, and b could not be asked"),
    ("4, of nobody known", [ABSENT, f"{UNKNOWN} "], UNCONFIRMED, 1, False, "a has none, and b could not be asked"),
    ("5", [ABSENT, UNKNOWN], UNCONFIRMED, 1, False, "a has none, and b could not be asked: ssh to b failed"),
    ("6", [UNKNOWN, f"{DELIVERED} a"], DELIVERED, 0, False, f"{A_DEAD}: the WAL comes from b"),
    ("6, told before", [SKIPPED, DELIVERED], DELIVERED, 0, False, ""),
    (
        "7",
        [UNKNOWN, f"{ABSENT} a"],
        UNHEARD,
        2,
        False,
        f"b has none, but only copies another Barman's archive, with a delay, and a could not be asked: {A_DEAD}",
    ),
    ("8", [UNKNOWN, ABSENT], UNHEARD, 2, False, f"b has none, and a could not be asked: {A_DEAD}"),
    ("8, skipped", [SKIPPED, ABSENT], UNHEARD, 2, False, "b has none, and a could not be asked"),
    ("9", [UNKNOWN, UNKNOWN], UNKNOWN, 2, True, f"{A_DEAD}; ssh to b failed: Connection refused"),
    ("9, again", [SKIPPED, SKIPPED], SKIPPED, 2, False, ""),
    ("9, one of them again", [UNKNOWN, SKIPPED], UNKNOWN, 2, True, A_DEAD),
    ("10", [INVALID, DELIVERED], DELIVERED, 0, False, "what came from a was refused: it is short; b has it"),
    ("11", [INVALID, ABSENT], INVALID, 3, True, "what came from a was refused: it is short; b has none"),
    ("11, the other way", [ABSENT, INVALID], INVALID, 3, True, "what came from b was refused"),
    ("11, dead", [INVALID, UNKNOWN], INVALID, 3, True, "what came from a was refused: it is short"),
    # A passive copy that has such a file, however bad, shows that there is one.
    ("11, passive", [ABSENT, f"{INVALID} a"], INVALID, 3, True, "what came from b was refused"),
    ("passive first", [f"{ABSENT} b", ABSENT], ABSENT, 1, False, ""),
    (
        "passive first, the other dead",
        [f"{ABSENT} b", UNKNOWN],
        UNHEARD,
        2,
        False,
        "a has none, but only copies",
    ),
    ("passive first, dead", [f"{UNKNOWN} b", ABSENT], ABSENT, 1, False, ""),
    ("both passive", [f"{ABSENT} b", f"{ABSENT} a"], ABSENT, 1, False, ""),
    ("both passive, one dead", [f"{ABSENT} b", f"{UNKNOWN} a"], UNHEARD, 2, False, "a has none"),
    ("three, the second dead", [ABSENT, UNKNOWN, ABSENT], UNCONFIRMED, 1, False, "a and c have none"),
    ("three, the first dead", [UNKNOWN, ABSENT, ABSENT], UNHEARD, 2, False, "b and c have none"),
    ("three, the passive dead", [ABSENT, ABSENT, f"{UNKNOWN} a"], ABSENT, 1, False, ""),
    ("three, the first has it", [DELIVERED, ABSENT, UNKNOWN], DELIVERED, 0, False, ""),
]


@pytest.mark.parametrize(
    ("said", "outcome", "status", "sleeps", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_several_hosts(said: list[str], outcome: str, status: int, sleeps: bool, words: str) -> None:
    judged, text = judge_answers(answers(*said))
    assert judged == outcome
    assert words in text
    assert bool(text) == bool(words)
    assert decide(judged, STANDBY, sleep=10) == (status, 10 if sleeps else 0)
    is_final = outcome in (DELIVERED, ABSENT)
    assert decide(judged, RECOVERY, time_left=600).status == (status if is_final else None)
    assert decide(judged, RECOVERY, time_left=0).status == (status if is_final else 200)
