"""Test what is read of a host."""

import json
from typing import Any

import pytest

from console.hosts import Cluster, Fleet, Host, read_clusters
from console.inventory import Inventory
from console.text import ConsoleError
from tests.support.console_standby import (
    CHRIS,
)


def test_known_hosts_unreadable(tmp_path: Any) -> None:
    (tmp_path / "inventory.yml").write_text("standbys: {hosts: {chris: }}\n")
    with pytest.raises(ConsoleError, match="known cannot be read: No such file"):
        Host("chris", Inventory([str(tmp_path / "inventory.yml")]), str(tmp_path / "known"), [])


@pytest.fixture(scope="module")
def chris_host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    file = tmp_path_factory.mktemp("inventory") / "inventory.yml"
    file.write_text("standbys: {hosts: {chris: }}\n")
    return Host("chris", Inventory([str(file)]), None, [])


def test_names_of_several_clusters_on_a_host(chris_host: Host) -> None:
    lines = [json.dumps(CHRIS._replace(barman_server=server)._asdict()) for server in ("angus", "bruno")]
    assert [each.name for each in read_clusters(chris_host, lines[0], "")] == ["chris"]
    assert [each.name for each in read_clusters(chris_host, "\n".join(lines), "")] == ["chris/angus", "chris/bruno"]
    (bruno,) = read_clusters(chris_host, "\n".join(lines), "bruno")
    assert (bruno.name, bruno.standby.barman_server) == ("chris/bruno", "bruno")
    with pytest.raises(ConsoleError, match="chris: no cluster is emil, only angus, bruno"):
        read_clusters(chris_host, "\n".join(lines), "emil")


def test_peers(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name other hosts' clusters of the same server of Barman, and tell who is dark."""
    file = tmp_path / "inventory.yml"
    file.write_text(
        """
        standbys:
          vars: {standby_barman_server: angus}
          hosts: {angus: , chris: , dora: , emil: {standby_barman_server: emil}}
        """
    )

    def answer(host: Host, *_words: str) -> str:
        if host.name == "dora":
            raise ConsoleError("dora: no route to host")
        return "\n".join(json.dumps(CHRIS._replace(barman_server=server)._asdict()) for server in ("angus", "bruno"))

    monkeypatch.setattr(Host, "run", answer)
    with Fleet([str(file)], "", [], "chris") as fleet:
        chris = Cluster("chris", fleet.host("chris"), CHRIS._replace(barman_server="angus"))
        told: list[str] = []
        assert [each.name for each in fleet.peers(chris, told.append)] == ["angus/angus"]
        assert told == ["dora: no route to host"]


@pytest.mark.parametrize(
    "records",
    [
        "{",
        '{"barman_host": "barman"}',
        "[]",
        "[" * 100_000,
        json.dumps({**CHRIS._asdict(), "spool_dir": 3}),
        json.dumps({**CHRIS._asdict(), "restore_command": "cp %f %p"}),
        json.dumps({**CHRIS._asdict(), "restore_command": """barman-wal-restore -p x barman angus %f "%p\""""}),
        json.dumps({**CHRIS._asdict(), "restore_command": """barman-wal-restore ' barman angus %f "%p\""""}),
    ],
)
def test_standby_json_unreadable(chris_host: Host, records: str) -> None:
    with pytest.raises(ConsoleError, match="deploy again"):
        read_clusters(chris_host, records, "")
