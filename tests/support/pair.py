"""Two Barman hosts for one standby: `barman`, the preferred one, and `barman2`."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from .barman_host import BarmanHost, write_clients
from .standby import Call, Standby

LISTED = "barman,barman2"
# Without prefetch is for make test-all: the same class asks the hosts.
with_and_without_prefetch = pytest.mark.parametrize("jobs", [pytest.param("0", marks=pytest.mark.matrix), "8"])


class Pair:
    """Hold two Barman hosts with a server of the same name."""

    def __init__(self, first: BarmanHost, second: BarmanHost, server: str) -> None:
        self.hosts = {"barman": first, "barman2": second}
        self.server = server
        # What stands in between: a port for each host, and the key that is used there.
        self.ports = {name: host.port for name, host in self.hosts.items()}
        self.keys = dict.fromkeys(self.hosts, "gate")
        for host in self.hosts.values():
            host.add_server(server)
        self.write()

    def write(self) -> None:
        """Write the ssh_config."""
        write_clients(
            self.hosts["barman"].client / "two",
            {name: (host, self.keys[name], self.ports[name]) for name, host in self.hosts.items()},
        )

    def refuse(self, name: str) -> None:
        """Have connections to a host refused."""
        self.ports[name] = self.hosts[name].refusing_port
        self.write()

    def accept(self, name: str) -> None:
        """Undo refuse()."""
        self.ports[name] = self.hosts[name].port
        self.write()

    def put(self, name: str, wal_name: str, content: bytes) -> None:
        self.hosts[name].put(self.server, wal_name, content)

    def put_everywhere(self, wal_names: Iterable[str], wal: Callable[[str], bytes]) -> None:
        """Put these into both archives. wal: returns the content of a file."""
        for wal_name in wal_names:
            for name in self.hosts:
                self.put(name, wal_name, wal(wal_name))

    def make_passive(self, name: str, source: str = "barman") -> None:
        """Have a host say that it copies another one."""
        with (self.hosts[name].folder / "barman.d" / f"{self.server}.conf").open("a") as file:
            file.write(f"primary_ssh_command = ssh barman@{source}\n")

    def fetch(self, standby: Standby, wal_name: str, *options: str, hosts: str = LISTED, **where: object) -> Call:
        return standby.fetch(wal_name, *options, host=hosts, server=self.server, ssh_config="two", **where)

    def command(self, fetcher: Path, spool: Path, *options: str, hosts: str = LISTED) -> str:
        return self.hosts["barman"].restore_command(
            fetcher, spool, *options, host=hosts, server=self.server, ssh_config="two"
        )


def forget_outages(standby: Standby) -> None:
    """Let the seconds pass in which a host is not asked."""
    for file in [*standby.spool.rglob("outage"), *standby.spool.rglob("host.skip.*")]:
        file.unlink()
