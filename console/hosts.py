"""Run commands on the hosts of an Ansible inventory, over ssh.

Unlike Fabric with its defaults: an unknown host key is refused, and no wait is endless.
"""

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

# Seconds, for each step of a connection.
CONNECT_LIMIT = 10
# Seconds, for one command.
COMMAND_LIMIT = 60
# Fail on an inventory that cannot be read: by default Ansible takes it for one without
# hosts.
STRICT = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"}


class ConsoleError(Exception):
    """A host, or the inventory, could not be asked; the text says why."""


class Inventory:
    """Read an inventory with ansible-inventory.

    Variables with a template in their value are left out. (A key that is one is given
    with fab's own option -i.)
    """

    def __init__(self, files: Sequence[str]) -> None:
        """Read the files, or what ansible.cfg names when there are none.

        Raises ConsoleError.
        """
        command = ["ansible-inventory", "--list", *(word for file in files for word in ("--inventory", file))]
        try:
            completed = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=COMMAND_LIMIT,
                check=False,
                env={**os.environ, **STRICT},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConsoleError(f"ansible-inventory could not be asked for the hosts: {error}") from error
        if completed.returncode != 0:
            raise ConsoleError(f"ansible-inventory does not know the hosts: {completed.stderr.strip()}")
        self._groups = json.loads(completed.stdout)

    def hosts(self, group: str) -> list[str]:
        """Return the hosts of a group and of the groups below it, in order."""
        found: list[str] = []
        waiting = [group]
        while waiting:
            members = self._groups.get(waiting.pop(0), {})
            found += members.get("hosts", [])
            waiting += members.get("children", [])
        return list(dict.fromkeys(found))

    def variables(self, host: str) -> dict[str, Any]:
        """Return the variables of a host that are no templates."""
        known = self._groups["_meta"]["hostvars"].get(host, {})
        return {name: value for name, value in known.items() if "{{" not in str(value)}


class Host:
    """Connect to one host when a command is run there for the first time."""

    def __init__(self, name: str, inventory: Inventory, known_hosts: str | None, identity: list[str]) -> None:
        """Prepare the connection.

        identity: files of private keys; none: the inventory's, and those of the agent.
        Raises ConsoleError when known_hosts cannot be read.
        """
        variables = inventory.variables(name)
        self.name = name
        keys = identity or [variables[key] for key in ["ansible_ssh_private_key_file"] if key in variables]
        self._connection = fabric.Connection(
            variables.get("ansible_host", name),
            user=variables.get("ansible_user"),
            port=variables.get("ansible_port"),
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
            raise ConsoleError(f"{known_hosts or 'known_hosts'} cannot be read: {error}") from error
        client.set_missing_host_key_policy(paramiko.RejectPolicy())

    def run(self, *words: str, user: str = "root", limit: int = COMMAND_LIMIT) -> str:
        """Run a command as a user, and return its output.

        It is run by sudo, which must not ask for a password. limit: in seconds.
        Raises ConsoleError, with the host's name, whatever goes wrong.
        """
        command = shlex.join(["sudo", "-n", "-H", "-u", user, "--", *words])
        try:
            return str(self._connection.run(command, hide=True, in_stream=False, timeout=limit).stdout)
        except UnexpectedExit as error:
            errors = error.result.stderr.strip().splitlines() or [f"{words[0]} ended with {error.result.exited}"]
            raise ConsoleError(f"{self.name}: {errors[-1]}") from error
        except CommandTimedOut as error:
            raise ConsoleError(f"{self.name}: {words[0]} took more than {limit} seconds") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ConsoleError(f"{self.name}: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection; the next command opens another."""
        self._connection.close()


class Standby(NamedTuple):
    """What the role has recorded on a standby, in standby.json."""

    barman_host: str
    barman_server: str
    data_directory: str
    postgres_user: str
    spool_dir: str
    restore_command: str

    def option(self, name: str) -> str:
        """Return an option's value in restore_command, or an empty string."""
        words = shlex.split(self.restore_command.replace("%%", "%"))
        return words[words.index(name) + 1] if name in words else ""


class Cluster(NamedTuple):
    """One cluster of PostgreSQL with a fallback to Barman.

    name: of its host, and of Barman's server when the host has several clusters.
    """

    name: str
    host: Host
    standby: Standby


class Fleet:
    """The standbys of an inventory. Leaving the block closes all connections."""

    def __init__(self, inventory: Sequence[str], known_hosts: str, identity: list[str], only: str) -> None:
        """Find the standbys in the inventory, without a connection to any.

        only: the name of one host, or of one of its clusters (HOST/SERVER); empty: all.
        Raises ConsoleError.
        """
        self._inventory = Inventory(inventory)
        self._access = (known_hosts or None, identity)
        wanted, _, self._barman_server = only.partition("/")
        names = [name for name in self._inventory.hosts("standbys") if wanted in ("", name)]
        if not names:
            raise ConsoleError(f"the inventory has no {wanted or 'host'} in the group standbys")
        self.standbys = [self.host(name) for name in names]

    def host(self, name: str) -> Host:
        """Return any host of the inventory.

        Raises ConsoleError.
        """
        if name not in self._inventory.hosts("all"):
            raise ConsoleError(f"{name} is not in the inventory")
        return Host(name, self._inventory, *self._access)

    def count_peers(self, cluster: Cluster) -> int:
        """Return how many standbys the inventory has for the same server of Barman.

        The cluster itself is one of them.
        """
        barman_server = cluster.standby.barman_server
        hosts = self._inventory.hosts("standbys")
        return sum(self._inventory.variables(host).get("standby_barman_server") == barman_server for host in hosts)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.standbys:
            host.close()

    def clusters(self) -> list[Cluster]:
        """Return the clusters of all hosts.

        Raises ConsoleError.
        """
        return [cluster for host in self.standbys for cluster in self.clusters_on(host)]

    def clusters_on(self, host: Host) -> list[Cluster]:
        """Return those clusters of one host that were asked for.

        Raises ConsoleError.
        """
        return read_clusters(host, host.run("sh", "-c", "cat /etc/walbasin/*/standby.json"), self._barman_server)

    def cluster(self) -> Cluster:
        """Return the only cluster.

        Raises ConsoleError when there are several.
        """
        found = self.clusters()
        if len(found) != 1:
            raise ConsoleError(f"name one of {', '.join(cluster.name for cluster in found)} with --standby")
        return found[0]

    def barman(self, cluster: Cluster) -> Host:
        """Return the Barman host of a cluster.

        Raises ConsoleError.
        """
        return self.host(cluster.standby.barman_host)


def read_clusters(host: Host, records: str, barman_server: str) -> list[Cluster]:
    """Return the clusters in the records of the role on a host, a JSON object a line.

    barman_server: only the cluster that has this name at Barman; empty: all.
    Raises ConsoleError.
    """
    try:
        found = [Standby(**json.loads(line)) for line in records.splitlines()]
    except (TypeError, ValueError) as error:
        raise ConsoleError(
            f"{host.name}: /etc/walbasin/*/standby.json cannot be read ({error}); deploy again"
        ) from error
    name = "{0}" if len(found) == 1 else "{0}/{1}"
    wanted = [each for each in found if barman_server in ("", each.barman_server)]
    if not wanted:
        known = ", ".join(each.barman_server for each in found)
        raise ConsoleError(f"{host.name}: no cluster is {barman_server}, only {known}")
    return [Cluster(name.format(host.name, each.barman_server), host, each) for each in wanted]
