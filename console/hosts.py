"""The hosts of an Ansible inventory, over ssh. Unlike with Fabric left alone: none that is unknown, no endless wait."""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fabric  # type: ignore[import-untyped]
import paramiko
from invoke.exceptions import CommandTimedOut, UnexpectedExit

CONNECT_LIMIT = 10
COMMAND_LIMIT = 60
# Otherwise what cannot be read is an inventory without hosts.
STRICT = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"}


class Trouble(Exception):
    """A host, or the inventory, could not be asked; the text says why."""


class Inventory:
    """What ansible-inventory says. Values that are templates are passed over: fab's own -i says which key."""

    def __init__(self, files: Sequence[str]) -> None:
        """Raises Trouble."""
        command = ["ansible-inventory", "--list", *(word for file in files for word in ("--inventory", file))]
        try:
            ran = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=COMMAND_LIMIT,
                check=False,
                env={**os.environ, **STRICT},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Trouble(f"ansible-inventory could not be asked for the hosts: {error}") from error
        if ran.returncode != 0:
            raise Trouble(f"ansible-inventory does not know the hosts: {ran.stderr.strip()}")
        self._said = json.loads(ran.stdout)

    def hosts(self, group: str) -> list[str]:
        """The hosts of a group and of those below it, in order."""
        found: list[str] = []
        waiting = [group]
        while waiting:
            members = self._said.get(waiting.pop(0), {})
            found += members.get("hosts", [])
            waiting += members.get("children", [])
        return list(dict.fromkeys(found))

    def variables(self, host: str) -> dict[str, Any]:
        known = self._said["_meta"]["hostvars"].get(host, {})
        return {name: value for name, value in known.items() if "{{" not in str(value)}


class Host:
    """One host. Raises Trouble, with the host's name, whatever goes wrong on the way to it."""

    def __init__(self, name: str, inventory: Inventory, known_hosts: str | None, identity: list[str]) -> None:
        said = inventory.variables(name)
        self.name = name
        keys = identity or [said[key] for key in ["ansible_ssh_private_key_file"] if key in said]
        self._connection = fabric.Connection(
            said.get("ansible_host", name),
            user=said.get("ansible_user"),
            port=said.get("ansible_port"),
            connect_timeout=CONNECT_LIMIT,
            connect_kwargs={
                "key_filename": [str(Path(key).expanduser()) for key in keys],
                "allow_agent": not identity,
                "banner_timeout": CONNECT_LIMIT,
                "auth_timeout": CONNECT_LIMIT,
                "channel_timeout": CONNECT_LIMIT,
            },
        )
        client = self._connection.client
        try:
            client.load_system_host_keys(known_hosts and str(Path(known_hosts).expanduser()))
        except (OSError, paramiko.hostkeys.InvalidHostKey) as error:
            raise Trouble(f"{known_hosts or 'known_hosts'} cannot be read: {error}") from error
        client.set_missing_host_key_policy(paramiko.RejectPolicy())

    def run(self, *words: str, user: str = "root", limit: int = COMMAND_LIMIT) -> str:
        """What a command says. It is run by sudo, which must not ask for a password."""
        command = shlex.join(["sudo", "-n", "-H", "-u", user, "--", *words])
        try:
            return str(self._connection.run(command, hide=True, in_stream=False, timeout=limit).stdout)
        except UnexpectedExit as error:
            said = error.result.stderr.strip().splitlines() or [f"{words[0]} ended with {error.result.exited}"]
            raise Trouble(f"{self.name}: {said[-1]}") from error
        except CommandTimedOut as error:
            raise Trouble(f"{self.name}: {words[0]} took more than {limit} seconds") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise Trouble(f"{self.name}: {error or type(error).__name__}") from error

    def close(self) -> None:
        self._connection.close()


class Standby(NamedTuple):
    """What the role has written down on a standby (standby.json)."""

    barman_host: str
    barman_server: str
    data_directory: str
    postgres_user: str
    spool_dir: str
    restore_command: str

    def option(self, name: str) -> str:
        """What restore_command says for an option (-p or the like); nothing where it does not."""
        words = shlex.split(self.restore_command.replace("%%", "%"))
        return words[words.index(name) + 1] if name in words else ""


class Cluster(NamedTuple):
    """A cluster with a fallback. `name`: of its host, and of Barman's server when the host has several."""

    name: str
    host: Host
    standby: Standby


class Fleet:
    """The standbys of an inventory. Leaving the block ends all connections."""

    def __init__(self, inventory: Sequence[str], known_hosts: str, identity: list[str], only: str) -> None:
        """`only`: the name of one host, or of one of its clusters (HOST/SERVER). Raises Trouble."""
        self._inventory = Inventory(inventory)
        self._access = (known_hosts or None, identity)
        wanted, _, self._server = only.partition("/")
        names = [name for name in self._inventory.hosts("standbys") if wanted in ("", name)]
        if not names:
            raise Trouble(f"the inventory has no {wanted or 'host'} in the group standbys")
        self.standbys = [self.host(name) for name in names]

    def host(self, name: str) -> Host:
        """Any host of the inventory. Raises Trouble."""
        if name not in self._inventory.hosts("all"):
            raise Trouble(f"{name} is not in the inventory")
        return Host(name, self._inventory, *self._access)

    def peers(self, cluster: Cluster) -> int:
        """How many standbys the inventory has for the same server of Barman's. Raises Trouble."""
        server = cluster.standby.barman_server
        hosts = self._inventory.hosts("standbys")
        return sum(self._inventory.variables(host).get("standby_barman_server") == server for host in hosts)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.standbys:
            host.close()

    def clusters(self) -> list[Cluster]:
        """Raises Trouble."""
        return [cluster for host in self.standbys for cluster in self.clusters_on(host)]

    def clusters_on(self, host: Host) -> list[Cluster]:
        """Those of one host that were asked for. Raises Trouble."""
        return clusters(host, host.run("sh", "-c", "cat /etc/walbasin/*/standby.json"), self._server)

    def cluster(self) -> Cluster:
        """The only one. Raises Trouble."""
        found = self.clusters()
        if len(found) != 1:
            raise Trouble(f"name one of {', '.join(cluster.name for cluster in found)} with --standby")
        return found[0]

    def barman(self, cluster: Cluster) -> Host:
        """The Barman host of a cluster. Raises Trouble."""
        return self.host(cluster.standby.barman_host)


def clusters(host: Host, said: str, server: str) -> list[Cluster]:
    """What the role has written down on a host, a line a cluster; `server`: only Barman's, if any. Raises Trouble."""
    try:
        found = [Standby(**json.loads(line)) for line in said.splitlines()]
    except (TypeError, ValueError) as error:
        raise Trouble(f"{host.name}: /etc/walbasin/*/standby.json cannot be read ({error}); deploy again") from error
    name = "{0}" if len(found) == 1 else "{0}/{1}"
    wanted = [each for each in found if server in ("", each.barman_server)]
    if not wanted:
        raise Trouble(f"{host.name}: no cluster is {server}, only {', '.join(each.barman_server for each in found)}")
    return [Cluster(name.format(host.name, each.barman_server), host, each) for each in wanted]
