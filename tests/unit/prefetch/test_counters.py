import pytest
from walbasin import policy
from walbasin.prefetch.counters import Counters

ONE, TWO = "000000010000000000000001", "000000010000000000000002"


def test_delivered_segments() -> None:
    counters = Counters()
    counters.count_delivered(ONE, 16 << 20, was_ready=True)
    counters.count_delivered(TWO, 16 << 20, was_ready=False, seconds=0.5)
    assert (counters.restored, counters.ready, counters.bytes, counters.waited) == (2, 1, 32 << 20, 0.5)
    assert counters.last_segment == TWO
    assert counters.last_restored > 0


@pytest.mark.parametrize(
    ("name", "outcome", "absent", "errors"),
    [
        (ONE, policy.DELIVERED, 0, {}),
        (ONE, policy.ABSENT, 1, {}),
        ("00000002.history", policy.ABSENT, 0, {}),  # hardly any that is asked for exists
        (ONE, policy.UNKNOWN, 0, {policy.UNKNOWN: 1}),
        (ONE, policy.INVALID, 0, {policy.INVALID: 1}),
        (ONE, policy.LOCAL_ERROR, 0, {policy.LOCAL_ERROR: 1}),
    ],
)
def test_replies_by_outcome(name: str, outcome: str, absent: int, errors: dict[str, int]) -> None:
    counters = Counters()
    counters.count_reply(name, outcome, "no route to host", 1.5)
    assert counters.absent == absent
    assert {kind: count for kind, count in counters.errors.items() if count} == errors
    assert counters.last_error == (f"{name}: no route to host" if errors else "")
    assert counters.waited == 1.5


def test_dump_and_load() -> None:
    counters = Counters()
    counters.count_delivered(ONE, 16 << 20, was_ready=True)
    counters.count_reply(TWO, policy.UNKNOWN, "silence", 3.0)
    assert Counters(counters.dump()).__dict__ == counters.__dict__


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"restored": "many"}', "\0" * 100])
def test_unreadable_counters(text: str) -> None:
    assert Counters(text).__dict__ == Counters().__dict__


def test_value_of_wrong_type() -> None:
    assert Counters(Counters().dump().replace('"waited": 0.0', '"waited": null')).waited == 0.0
