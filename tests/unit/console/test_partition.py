"""Test the rule that cuts a standby off."""

import pytest

from console import partition
from console.hosts import Cluster
from console.text import NotUnderstood
from tests.support.console_standby import CHRIS, Answering


def test_partition_rules() -> None:
    text = partition.rules([("192.0.2.1", 5432), ("2001:db8::1", 5433)], "postgres")
    assert 'ip daddr 192.0.2.1 tcp dport 5432 meta skuid "postgres" reject with tcp reset' in text
    assert 'ip6 daddr 2001:db8::1 tcp dport 5433 meta skuid "postgres" reject with tcp reset' in text


@pytest.mark.parametrize("name", ["x/;1e id>/tmp/proof;#.localhost", "a b", "$(id)", "", "ä", "a\n"])
def test_strange_name_of_a_primary(name: str) -> None:
    cluster = Cluster("chris", Answering({"": ""}), CHRIS)
    with pytest.raises(NotUnderstood, match="chris: not understood: it streams from a host called"):
        partition.partition(cluster, [(name, 5432)])
    assert cluster.host.asked == [], "nothing was run"  # type: ignore[attr-defined]


def test_strange_address_of_a_primary() -> None:
    host = Answering({"getent": '192.0.2.1 STREAM angus\n1}; add rule x "y" STREAM angus\n'})
    with pytest.raises(NotUnderstood, match="not understood: getent ahosts angus"):
        partition.partition(Cluster("chris", host, CHRIS), [("angus", 5432)])
    assert len(host.asked) == 1
