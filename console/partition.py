"""Cut one standby off from its primary, with a rule in the standby's own kernel."""

import ipaddress
import re

from .hosts import Cluster, Host
from .outage import Interruption
from .text import ConsoleError, NotUnderstood

TABLE = "inet walbasin_drill"
CHECK = 'command -v nft >/dev/null || { echo "nft, which cuts the connection, is not installed" >&2; exit 1; }'
MAKE = "nft -f -"
UNDO = f"""
nft delete table {TABLE} 2>/dev/null
if nft list table {TABLE} >/dev/null 2>&1; then echo "the rule is still there" >&2; exit 1; fi
exit 0
"""
# A host's name or address. Whatever else a standby calls its primary is refused.
HOST_NAME = re.compile(r"[A-Za-z0-9_.:%-]+")


def rules(addresses: list[tuple[str, int]], user: str) -> str:
    """Return an nft script that refuses what this user sends to these addresses.

    They are refused at once, as if nobody listened there.
    """
    rejections = "\n".join(
        f'ip{"6" * (":" in address)} daddr {address} tcp dport {port} meta skuid "{user}" reject with tcp reset'
        for address, port in addresses
    )
    return f"table {TABLE} {{\nchain output {{\ntype filter hook output priority 0;\n{rejections}\n}}\n}}\n"


def partition(cluster: Cluster, primaries: list[tuple[str, int]]) -> Interruption:
    """Return how the standby's connections to its primaries are refused.

    primaries: host name and port of each server that it may stream from.
    Raises ConsoleError when no address of them is known.
    """
    found = {(address, port) for name, port in primaries for address in _addresses(cluster.host, name)}
    if not found:
        raise ConsoleError(f"{cluster.name}: no address is known of {', '.join(name for name, _ in primaries)}")
    return Interruption(check=CHECK, make=MAKE, undo=UNDO, text=rules(sorted(found), cluster.standby.postgres_user))


def _addresses(host: Host, name: str) -> set[str]:
    """Return the addresses of a name, as a host resolves it; none, if it cannot.

    Raises ConsoleError.
    """
    if not HOST_NAME.fullmatch(name):
        raise NotUnderstood(host.name, f"it streams from a host called {name!r}")
    # Its status is that of `true`: a name that is not known is no error here.
    output = host.run("sh", "-c", 'getent ahosts -- "$1"; true', "sh", name)
    try:
        # What follows a % is an interface, which nft does not take.
        return {
            str(ipaddress.ip_address(line.split()[0].partition("%")[0])) for line in output.splitlines() if line.strip()
        }
    except ValueError as error:
        raise NotUnderstood(host.name, f"getent ahosts {name}: {error}") from error
