"""Name the hosts of an Ansible inventory, and run commands on them."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from .inventory import Inventory
from .ssh import Connection
from .text import ConsoleError, NotUnderstood

# Seconds, for one command, and bytes that it may print.
COMMAND_LIMIT = 60
MOST_OUTPUT = 4 << 20
# As the role writes it. Where it goes along with a clone, or is for all members of a
# Patroni cluster, a guard for hosts without the program is around the call.
RESTORE_COMMAND = re.compile(r"""(?:\[ -x \S+ \] && exec |/bin/sh -c '[^']*' )?(/\S+) (.*) %f "%p"(?:; .*)?""")


class Host:
    """Connect to one host when a command is run there for the first time."""

    def __init__(self, name: str, inventory: Inventory, known_hosts: str | None, identity: list[str]) -> None:
        """Prepare the connection.

        known_hosts: a file; None: those that ssh knows. identity: files of private
        keys; none: the inventory's, and those that ssh finds.
        Raises ConsoleError when known_hosts cannot be read.
        """
        self.name = name
        self._inventory = inventory
        self._keys = (known_hosts, identity)
        if known_hosts:
            try:
                Path(known_hosts).expanduser().open("rb").close()
            except OSError as error:
                raise ConsoleError(f"{known_hosts} cannot be read: {error.strerror}") from error

    @cached_property
    def _connection(self) -> Connection:
        return Connection(self.name, self._inventory.access(self.name), *self._keys)

    def run(
        self, *words: str, user: str = "root", limit: int = COMMAND_LIMIT, most: int = MOST_OUTPUT, stdin: str = ""
    ) -> str:
        """Run a command as a user, and return its output.

        It is run by sudo, which must not ask for a password. limit: in seconds. most:
        bytes. stdin: what it reads. Raises ConsoleError, with the host's name, whatever
        goes wrong.
        """
        command = shlex.join(["sudo", "-n", "-H", "-u", user, "--", *words])
        try:
            completed = self._connection.run(command, limit, most, stdin)
        except TimeoutError:
            raise ConsoleError(f"{self.name}: {words[0]} took more than {limit} seconds") from None
        except OverflowError:
            raise NotUnderstood(self.name, f"{words[0]} has printed more than {most >> 10} KiB") from None
        if completed.status != 0:
            errors = completed.stderr.strip().splitlines() or [f"{words[0]} ended with {completed.status}"]
            raise ConsoleError(f"{self.name}: {errors[-1]}")
        return completed.stdout

    def close(self) -> None:
        """Close the connection; the next command opens another."""
        if "_connection" in self.__dict__:
            self._connection.close()

    def end(self) -> None:
        """Close the connection for good."""
        if "_connection" in self.__dict__:
            self._connection.end()


class Standby(NamedTuple):
    """Hold what the role has recorded on a standby, in standby.json.

    barman_host: the Barman hosts, the preferred one first, with commas between.
    patroni_file: the configuration of the Patroni that manages it, or an empty text.
    patroni_path: the PATH on which patronictl is.
    """

    barman_host: str
    barman_server: str
    data_directory: str
    postgres_user: str
    spool_dir: str
    restore_command: str
    patroni_file: str = ""
    patroni_path: str = ""

    @property
    def barman_hosts(self) -> list[str]:
        """Return the names of the Barman hosts, the preferred one first."""
        return self.barman_host.split(",")

    def option(self, name: str) -> str:
        """Return an option's value in restore_command, or an empty string."""
        call = RESTORE_COMMAND.fullmatch(self.restore_command)
        words = shlex.split(call[2].replace("%%", "%")) if call else []
        return words[words.index(name) + 1] if name in words else ""


class Cluster(NamedTuple):
    """Hold one cluster of PostgreSQL with a fallback to Barman.

    name: of its host, and of Barman's server when the host has several clusters.
    """

    name: str
    host: Host
    standby: Standby


class Fleet:
    """Find the standbys of an inventory. Leaving the block closes all connections."""

    def __init__(self, inventory: Sequence[str], known_hosts: str, identity: list[str], only: str) -> None:
        """Find the standbys in the inventory, without a connection to any.

        only: the name of one host, or of one of its clusters (HOST/SERVER); empty: all.
        Raises ConsoleError.
        """
        self._inventory = Inventory(inventory)
        self._keys = (known_hosts or None, identity)
        self._hosts: dict[str, Host] = {}
        wanted, _, self._barman_server = only.partition("/")
        names = [name for name in self._inventory.hosts("standbys") if wanted in ("", name)]
        if not names:
            raise ConsoleError(f"the inventory has no {wanted or 'host'} in the group standbys")
        self._inventory.find_access(names)
        self.standbys = [self.host(name) for name in names]

    def host(self, name: str) -> Host:
        """Return any host of the inventory.

        Raises ConsoleError.
        """
        if name not in self._inventory.hosts("all"):
            raise ConsoleError(f"{name} is not in the inventory")
        if name not in self._hosts:
            self._hosts[name] = Host(name, self._inventory, *self._keys)
        return self._hosts[name]

    def barman_user(self, name: str) -> str:
        """Return the user that runs Barman on a host, as the role knows it."""
        return str(self._inventory.variables(name).get("standby_barman_user", "barman"))

    def peers(self, cluster: Cluster, tell: Callable[[str], None]) -> Iterator[Cluster]:
        """Yield what other hosts of the group have for the same server of Barman.

        Tell of a host that cannot be asked, and leave it out.
        """
        server = cluster.standby.barman_server
        for name in self._inventory.hosts("standbys"):
            is_meant = self._inventory.variables(name).get("standby_barman_server") == server
            if name != cluster.host.name and is_meant:
                try:
                    yield from _ask_clusters(self.host(name), server)
                except ConsoleError as error:
                    tell(str(error))

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts.values():
            host.end()

    def clusters(self) -> list[Cluster]:
        """Return the clusters of all hosts.

        Raises ConsoleError.
        """
        return [cluster for host in self.standbys for cluster in self.clusters_on(host)]

    def clusters_on(self, host: Host) -> list[Cluster]:
        """Return those clusters of one host that were asked for.

        Raises ConsoleError.
        """
        return _ask_clusters(host, self._barman_server)

    def cluster(self) -> Cluster:
        """Return the only cluster.

        Raises ConsoleError when there are several.
        """
        found = self.clusters()
        if len(found) != 1:
            raise ConsoleError(f"name one of {', '.join(cluster.name for cluster in found)} with --standby")
        return found[0]


def _ask_clusters(host: Host, barman_server: str) -> list[Cluster]:
    """Return what read_clusters does, for what is on the host. Raises ConsoleError."""
    return read_clusters(host, host.run("sh", "-c", "cat /etc/walbasin/*/standby.json"), barman_server)


def read_clusters(host: Host, records: str, barman_server: str) -> list[Cluster]:
    """Return the clusters in the records of the role on a host, a JSON object a line.

    barman_server: only the cluster that has this name at Barman; empty: all.
    Raises ConsoleError.
    """
    try:
        found = [_read_standby(line) for line in records.splitlines() if line.strip()]
    except (IndexError, RecursionError, TypeError, ValueError) as error:
        raise NotUnderstood(host.name, f"/etc/walbasin/*/standby.json ({error}); deploy again") from error
    name = "{0}" if len(found) == 1 else "{0}/{1}"
    wanted = [each for each in found if barman_server in ("", each.barman_server)]
    if not wanted:
        known = ", ".join(each.barman_server for each in found)
        raise ConsoleError(f"{host.name}: no cluster is {barman_server}, only {known}")
    return [Cluster(name.format(host.name, each.barman_server), host, each) for each in wanted]


def _read_standby(line: str) -> Standby:
    """Return one record. Raises IndexError, RecursionError, TypeError, ValueError."""
    standby = Standby(**json.loads(line))
    if not all(isinstance(value, str) for value in standby):
        raise TypeError("a value is no text")
    if not RESTORE_COMMAND.fullmatch(standby.restore_command):
        raise ValueError("restore_command is not the role's")
    int(standby.option("-p") or 0)
    standby.option("-c"), standby.option("--ssh-config")
    return standby
