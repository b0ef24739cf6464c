"""Test how Patroni is told to keep a member from streaming."""

from typing import Any

import pytest
import yaml

from console import nostream, patroni
from console.hosts import Cluster
from console.text import NotUnderstood
from tests.support.console_standby import CHRIS, Answering

FILE = """
scope: 15-main
name: chris
restapi:
  authentication: {username: patroni, password: 'secret: #1'}
"""


@pytest.mark.parametrize(
    ("versions", "server_version", "expected"),
    [
        ("patronictl version 4.0.7\n\nchris: Patroni 4.0.7 PostgreSQL 17.6\n", "17.6 (Debian 17.6-1)", True),
        ("patronictl version 4.0.7\n\nchris: Patroni 3.3.0 PostgreSQL 13.1\n", "13.1", True),
        ("patronictl version 4.0.7\n\nchris: Patroni 3.2.2 PostgreSQL 15.1\n", "15.1", False),
        # primary_conninfo costs a restart there.
        ("patronictl version 4.0.7\n\nchris: Patroni 4.0.7 PostgreSQL 12.1\n", "12.1", False),
        # Of another member, of none, and of one that does not answer.
        ("patronictl version 4.0.7\n\nbon: Patroni 4.0.7 PostgreSQL 17.6\n", "17.6", False),
        ("patronictl version 4.0.7\n", "17.6", False),
        ("chris: failed to get version: timed out\n", "17.6", False),
        ("chris: Patroni None\n", "17.6", False),
        ("chris: Patroni 4.0.7 PostgreSQL 17.6\n", "", False),
    ],
)
def test_can_stop_streaming(versions: str, server_version: str, expected: bool) -> None:
    assert nostream.can_stop_streaming("chris", versions, server_version, {}) is expected


@pytest.mark.parametrize(
    ("dynamic", "expected"),
    [
        ({"pause": False, "slots": None}, True),
        ({"slots": {"barman": {"type": "physical"}}}, True),
        # Nothing would happen; it would cost a restart; and what is not understood.
        ({"pause": True}, False),
        ({"slots": {"barman": {"type": "physical"}, "events": {"type": "logical"}}}, False),
        ({"slots": {"barman": {}}}, False),
        ({"slots": ["barman"]}, False),
    ],
)
def test_dynamic_configuration(dynamic: dict[str, Any], expected: bool) -> None:
    versions = "chris: Patroni 4.0.7 PostgreSQL 17.6"
    assert nostream.can_stop_streaming("chris", versions, "17.6", dynamic) is expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", {"nostream": True}),
        ("tags:\n", {"nostream": True}),
        ("tags: {nofailover: true}\n", {"nofailover": True, "nostream": True}),
        ("tags: {nostream: false}\n", {"nostream": True}),
    ],
)
def test_tag(tags: str, expected: dict[str, Any]) -> None:
    """Add the tag, and change nothing else."""
    added = yaml.safe_load(nostream.add_tag("chris", FILE + tags))
    assert added.pop("tags") == expected
    assert added == yaml.safe_load(FILE)


@pytest.mark.parametrize("text", ["", "7", "[]", "secret: [", "a: 2025-13-45", "tags: [secret]", "[" * 100_000])
def test_configuration_not_understood(text: str) -> None:
    with pytest.raises(NotUnderstood, match=r"chris: not understood: Patroni's configuration file$"):
        nostream.add_tag("chris", text)


@pytest.mark.parametrize(
    ("text", "identity"), [(FILE, ("15-main", "chris")), ("scope: 15-main", ("15-main", "")), ("name:", ("", ""))]
)
def test_identity(text: str, identity: tuple[str, str]) -> None:
    assert patroni.find_identity("chris", text) == identity


def test_no_secret_among_the_words() -> None:
    member = CHRIS._replace(patroni_file="/etc/patroni/15-main.yml", patroni_path="/usr/bin")
    interruption = nostream.nostream(Cluster("chris", Answering({}), member), FILE)
    assert interruption.words == ("/etc/patroni/15-main.yml", "postgres", str(len(interruption.text)))
    assert "secret" in interruption.text
    assert "secret" not in interruption.check + interruption.make + interruption.undo
