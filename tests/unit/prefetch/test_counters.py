import pytest
from walbasin import policy
from walbasin.prefetch.counters import Counters

ONE, TWO = "000000010000000000000001", "000000010000000000000002"


def test_it_counts_what_was_handed_over_and_what_that_took() -> None:
    record = Counters()
    record.count_delivered(ONE, 16 << 20, was_ready=True)
    record.count_delivered(TWO, 16 << 20, was_ready=False, seconds=0.5)
    assert (record.restored, record.ready, record.bytes, record.waited) == (2, 1, 32 << 20, 0.5)
    assert record.last_segment == TWO
    assert record.last_restored > 0


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
def test_it_counts_answers_by_kind(name: str, outcome: str, absent: int, errors: dict[str, int]) -> None:
    record = Counters()
    record.count_reply(name, outcome, "no route to host", 1.5)
    assert record.absent == absent
    assert {kind: count for kind, count in record.errors.items() if count} == errors
    assert record.last_error == (f"{name}: no route to host" if errors else "")
    assert record.waited == 1.5


def test_it_goes_on_where_it_was() -> None:
    record = Counters()
    record.count_delivered(ONE, 16 << 20, was_ready=True)
    record.count_reply(TWO, policy.UNKNOWN, "silence", 3.0)
    assert Counters(record.dump()).__dict__ == record.__dict__


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"restored": "many"}', "\0" * 100])
def test_what_cannot_be_read_begins_anew(text: str) -> None:
    assert Counters(text).__dict__ == Counters().__dict__


def test_a_counter_of_another_kind_is_no_record() -> None:
    assert Counters(Counters().dump().replace('"waited": 0.0', '"waited": null')).waited == 0.0
