"""Test what is taken of the inventory."""

from typing import Any

import pytest

from console.inventory import Inventory
from console.text import ConsoleError


def test_inventory_hosts_and_variables(tmp_path: Any) -> None:
    file = tmp_path / "inventory.yml"
    file.write_text(
        "standbys:\n  hosts:\n    chris: {ansible_host: 192.0.2.3, key: '{{ other }}'}\n"
        "  children:\n    far:\n      hosts: {dora: {}}\n"
    )
    inventory = Inventory([str(file)])
    assert inventory.hosts("standbys") == ["chris", "dora"]
    assert inventory.variables("chris") == {"ansible_host": "192.0.2.3"}


def test_access_of_inventory(tmp_path: Any) -> None:
    """Resolve what a playbook would: templates, and nothing where nothing is set."""
    file = tmp_path / "inventory.yml"
    file.write_text(
        "standbys:\n  hosts:\n    chris:\n"
        "    dora: {ansible_ssh_port: 2222, ansible_user: '{{ who }}', who: dba, "
        "ansible_ssh_common_args: '-J {{ inventory_dir }}'}\n"
        "    emil: {ansible_host: '{{ nowhere }}'}\n"
    )
    inventory = Inventory([str(file)])
    inventory.find_access(["chris", "dora", "emil"])
    assert inventory.access("chris")[:4] == ("chris", "", "", "")
    dora = inventory.access("dora")
    assert (dora.host, dora.port, dora.remote_user, dora.ssh_common_args) == ("dora", "2222", "dba", f"-J {tmp_path}")
    with pytest.raises(ConsoleError, match=r"^emil: Ansible does not know how to reach it: .*'nowhere' is undefined"):
        inventory.access("emil")


def test_inventory_unreadable(tmp_path: Any) -> None:
    (tmp_path / "inventory.yml").write_text("standbys: [")
    with pytest.raises(ConsoleError, match="does not know the hosts"):
        Inventory([str(tmp_path / "inventory.yml")])
