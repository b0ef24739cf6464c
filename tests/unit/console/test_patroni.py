"""Test what the console says of a Patroni cluster."""

import json
from typing import Any

import pytest
from rich.console import Console

from console import patroni
from console.hosts import Cluster
from console.text import ConsoleError, NotUnderstood
from tests.support.console_standby import CHRIS, Answering

LEADER = {"Cluster": "15-main", "Member": "angus", "Host": "10.0.0.1", "Role": "Leader", "State": "running", "TL": 3}
REPLICA = {**LEADER, "Member": "chris", "Role": "Replica", "Lag in MB": 7}
COMMAND = "[ -x /usr/local/bin/barman-wal-restore ] && exec /usr/local/bin/barman-wal-restore barman angus %f %p"


@pytest.mark.parametrize(
    ("member", "row"),
    [
        (LEADER, ("angus", "Leader", "running", "3", "")),
        (REPLICA, ("chris", "Replica", "running", "3", "7")),
        ({**REPLICA, "Lag in MB": "unknown"}, ("chris", "Replica", "running", "3", "unknown")),
        # One that starts, in 3.0; and one of 4.1.
        ({**LEADER, "State": "starting", "TL": ""}, ("angus", "Leader", "starting", "", "")),
        ({**LEADER, "Receive Lag": 1, "Replay Lag": 2}, ("angus", "Leader", "running", "3", "2")),
    ],
)
def test_members(member: dict[str, Any], row: tuple[str, ...]) -> None:
    assert patroni.parse_members("angus", json.dumps([member])) == patroni.Members("15-main", (row,))


@pytest.mark.parametrize("output", ["", "[]", "{}", "7", "[7]", '[{"Member": "angus"}]', "Error", "[" * 100_000])
def test_members_not_understood(output: str) -> None:
    with pytest.raises(NotUnderstood, match="angus: not understood: patronictl list answers"):
        patroni.parse_members("angus", output)


@pytest.mark.parametrize(
    ("output", "command"),
    [
        ("", ""),
        ("ttl: 30\n", ""),
        ("postgresql:\n", ""),
        ("postgresql:\n  recovery_conf: {}\n", ""),
        ("postgresql:\n  recovery_conf:\n    restore_command: null\n", ""),
        (f"postgresql:\n  recovery_conf:\n    restore_command: '{COMMAND}'\n", COMMAND),
        # As patronictl folds long lines.
        ("postgresql:\n  recovery_conf:\n    restore_command: 'cp\n      /archive/%f %p'\n", "cp /archive/%f %p"),
    ],
)
def test_command(output: str, command: str) -> None:
    assert patroni.parse_command("angus", output) == command


def test_replicas() -> None:
    """Count those that run, and not the leader."""
    states = ["running", "streaming", "in archive recovery", "stopped"]
    members = [LEADER, *({**REPLICA, "State": state} for state in states), {**LEADER, "Role": "Sync Standby"}]
    member = CHRIS._replace(patroni_file="/etc/patroni/15-main.yml")
    assert patroni.count_replicas(Cluster("chris", Answering({"list": json.dumps(members)}), member)) == 4


@pytest.mark.parametrize("output", ["7", "[7]", "postgresql: 7", "a: b: c", "'"])
def test_command_not_understood(output: str) -> None:
    with pytest.raises(ConsoleError, match="angus: not understood: patronictl show-config answers"):
        patroni.parse_command("angus", output)


def test_problem() -> None:
    assert patroni.explain(COMMAND, COMMAND) == ""
    assert patroni.explain("", COMMAND) == "the dynamic configuration has no restore_command: deploy again"
    assert "has another restore_command: cp x: deploy" in patroni.explain("cp x", COMMAND)


def test_table() -> None:
    members = patroni.parse_members("angus", json.dumps([LEADER, REPLICA]))._replace(problem="no [red]command")
    console = Console(width=80, record=True)
    console.print(patroni.table([members]))
    lines = console.export_text().splitlines()
    assert [line.split() for line in lines] == [
        ["Patroni:", "15-main"],
        ["member", "role", "state", "timeline", "lag", "in", "MiB"],
        ["angus", "Leader", "running", "3"],
        ["chris", "Replica", "running", "3", "7"],
        ["15-main:", "no", "[red]command"],
    ]
