"""Test when an outage is not rehearsed."""

from typing import Any

import pytest
from hypothesis import given, settings

from console import drill
from console.answers import parse_snapshot
from console.hosts import Cluster
from console.snapshot import Archive, Snapshot
from console.text import ConsoleError, NotUnderstood
from tests.support.console_standby import CHRIS, MIB, NOW, WELL, Answering, answers, snapshot


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        ("", False),
        ("chris", True),
        ("dora, CHRIS", True),
        ("FIRST 1 (dora, chris)", True),
        ("any 2 (dora, emil)", False),
        ('2 ("chris")', True),
        ("*", True),
        ("christine", False),
    ],
)
def test_synchronous_standby_names(names: str, is_one: bool) -> None:
    assert drill.is_synchronous(names, "chris") is is_one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host=angus port=5433", [("angus", 5433)]),
        ("host=angus", [("angus", 5432)]),
        ("host=angus,dora port=5432,5433", [("angus", 5432), ("dora", 5433)]),
        ("host=angus,dora port=5433", [("angus", 5433), ("dora", 5433)]),
        ("host=angus hostaddr=192.0.2.1", [("192.0.2.1", 5432)]),
        ("application_name=my standby host=angus", [("angus", 5432)]),
        ("channel_binding= host=angus port=", [("angus", 5432)]),
        ("port=5433", [("/", 5433)]),
        ("host=/run/postgresql", [("/run/postgresql", 5432)]),
    ],
)
def test_primaries_in_a_conninfo(text: str, expected: list[tuple[str, int]]) -> None:
    assert drill.primaries(drill.parse_conninfo(text)) == expected


class Unreachable(Answering):
    """Cannot be asked."""

    def run(self, *words: str, **_: Any) -> str:
        raise ConsoleError("emil: no route to host")


def test_standbys_that_run() -> None:
    """Count no primary, and no standby that cannot be asked."""
    hosts = [Answering({"pg_is_in_recovery": "t\n"}), Answering({"pg_is_in_recovery": "f\n"}), Unreachable({})]
    told: list[str] = []
    assert drill.count_standbys([Cluster(host.name, host, CHRIS) for host in hosts], told.append) == 1
    assert told == ["emil: no route to host"]


PATRONI = "/usr/bin/python3 /usr/bin/patroni /etc/patroni.yml"
AROUND = drill.Surroundings(
    peers=2,
    synchronous="",
    application_name="chris",
    primaries=[("angus", 5432)],
    processes="/sbin/init\npostgres: repmgr repmgr [local] idle",
)


@pytest.mark.parametrize(
    ("postgres", "fetcher", "changes", "words"),
    [
        ({"receiver": None}, {}, {}, "does not stream"),
        ({"replayed": 1 * MIB}, {}, {}, "lags 99 MiB behind"),
        ({}, {"test": {"time": 0, "seconds": 0, "error": "", "gate": "1"}}, {}, "never tested"),
        ({}, {"test": {"time": NOW, "seconds": 0, "error": "no key", "gate": ""}}, {}, "test failed: no key"),
        ({"restore_command": "cp"}, {}, {}, "in effect is restore_command = 'cp'"),
        ({}, {"archive": Archive(2, None, "no route to host")}, {}, "Barman does not answer it: no route to host"),
        ({}, {}, {"peers": 1}, "the only standby"),
        ({}, {}, {"synchronous": "chris"}, "commits may wait for it"),
        ({}, {}, {"primaries": [("/run/postgresql", 5432)]}, "a local socket"),
        ({}, {}, {"processes": "init\n/usr/bin/repmgrd -f /etc/repmgr.conf"}, "repmgrd runs there"),
        ({}, {}, {"processes": PATRONI}, "patroni runs there"),
    ],
)
def test_drill_refusals(postgres: dict[str, Any], fetcher: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    assert list(drill.refusals(CHRIS, snapshot(0, WELL, {}), AROUND)) == []
    (reason,) = drill.refusals(CHRIS, snapshot(0, {**WELL, **postgres}, {}, **fetcher), AROUND._replace(**changes))
    assert words in reason


@pytest.mark.parametrize(
    ("postgres", "processes", "words"),
    [
        ({}, PATRONI, []),
        ({"is_recovering": False}, PATRONI, ["does not stream"]),
        ({}, f"{PATRONI}\n/usr/bin/repmgrd -d", ["repmgrd runs there"]),
    ],
)
def test_drill_with_a_member_of_patroni(postgres: dict[str, Any], processes: str, words: list[str]) -> None:
    """Rehearse with a replica whose Patroni the role has found, not with a leader."""
    member = CHRIS._replace(patroni_file="/etc/patroni/15-main.yml")
    now = snapshot(0, {**WELL, **postgres}, {})
    reasons = list(drill.refusals(member, now, AROUND._replace(processes=processes)))
    assert [word in reason for word, reason in zip(words, reasons, strict=True)] == [True] * len(words)


@pytest.mark.parametrize("text", ["host=angus port=x", "host=angus port=0", "host=a,b,c port=1,2", "host=a port=65536"])
def test_primaries_not_understood(text: str) -> None:
    with pytest.raises(ConsoleError, match="not understood: it streams from port"):
        drill.primaries(drill.parse_conninfo(text))


@given(answers())
@settings(max_examples=100)
def test_any_answer_in_a_drill(answer: str) -> None:
    around = drill.Surroundings(2, "", "chris", [("angus", 5432)], "")
    try:
        postgres, fetcher = parse_snapshot("chris", answer)
    except NotUnderstood:
        return
    for reason in drill.refusals(CHRIS, Snapshot(0, postgres, fetcher), around):
        assert isinstance(reason, str)
