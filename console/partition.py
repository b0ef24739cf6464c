"""Cut one standby off from its primary, on the standby alone, and heal that again.

The standby's connections to its primary are refused by a rule in its kernel. Before the
rule is written, a timer of systemd is started that removes it, so that nobody has to be
there. A reboot removes the rule too.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .hosts import Cluster, Host
from .text import ConsoleError, NotUnderstood

UNIT = "walbasin-drill"
TABLE = "inet walbasin_drill"
HEAL_ATTEMPTS = 3
START_TIMER = f"""
nft=$(command -v nft) || {{ echo "nft, which cuts the connection, is not installed" >&2; exit 1; }}
systemd-run --quiet --collect --unit={UNIT} --on-active="$1" --timer-property=AccuracySec=1s "$nft" delete table {TABLE}
"""
PARTITION = f"""
systemctl is-active --quiet {UNIT}.timer || {{
    echo "the timer that undoes the cut is not active any more" >&2
    exit 1
}}
printf %s "$1" | nft -f -
"""
# Stop the timer last. Leave it running ($1: no) where the rule may still be on its way
# to the host.
HEAL = f"""
nft delete table {TABLE} 2>/dev/null
if nft list table {TABLE} >/dev/null 2>&1; then echo "the rule is still there" >&2; exit 1; fi
[ "$1" = yes ] || exit 0
systemctl stop {UNIT}.timer {UNIT}.service 2>/dev/null
systemctl reset-failed {UNIT}.service 2>/dev/null
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


@contextmanager
def partition(
    cluster: Cluster, primaries: list[tuple[str, int]], limit: int, tell: Callable[[str], None]
) -> Iterator[None]:
    """Cut the standby off while the block lasts, for `limit` seconds at most.

    primaries: host name and port of each server that it may stream from.
    Raises ConsoleError.
    """
    host = cluster.host
    addresses = _resolve(cluster, primaries)
    # Stay outside of the `try`: when another drill's timer has the name already, this
    # drill has nothing to undo.
    host.run("sh", "-c", START_TIMER, "sh", str(limit))
    is_made = False
    try:
        host.run("sh", "-c", PARTITION, "sh", rules(addresses, cluster.standby.postgres_user))
        is_made = True
        yield
    finally:
        if not _is_healed(host, is_made, tell):
            tell(f"{cluster.name} undoes it by itself, {limit} seconds after the cut at the latest")


def _resolve(cluster: Cluster, primaries: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return address and port of each primary, as the standby resolves its name.

    Raises ConsoleError when no address is known.
    """
    host = cluster.host
    found = {(address, port) for name, port in primaries for address in _addresses(host, name)}
    addresses = sorted(found)
    if not addresses:
        raise ConsoleError(f"{cluster.name}: no address is known of {', '.join(name for name, _ in primaries)}")
    return addresses


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


def _is_healed(host: Host, is_made: bool, tell: Callable[[str], None]) -> bool:
    """Remove the rule, and return whether it is gone.

    Errors are told, not raised: another exception may be on its way already.
    """
    for attempt in range(HEAL_ATTEMPTS):
        try:
            host.run("sh", "-c", HEAL, "sh", "yes" if is_made else "no")
            return True
        except ConsoleError as error:
            host.close()
            tell(f"cannot give streaming back, attempt {attempt + 1}: {error}")
    return False
