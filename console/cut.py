"""The cut: one standby's connections to its primary are refused, on the standby alone.

What undoes it is armed before anything is cut: a timer of systemd's, which needs nobody. A reboot undoes it as well,
since the cut is a rule in the kernel.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .hosts import Cluster, Host, Trouble

UNIT = "walbasin-drill"
TABLE = "inet walbasin_drill"
ARM = f"""
nft=$(command -v nft) || {{ echo "nft, which cuts the connection, is not installed" >&2; exit 1; }}
systemd-run --quiet --collect --unit={UNIT} --on-active="$1" --timer-property=AccuracySec=1s "$nft" delete table {TABLE}
"""
CUT = f"""
systemctl is-active --quiet {UNIT}.timer || {{ echo "what undoes the cut is not armed any more" >&2; exit 1; }}
printf %s "$1" | nft -f -
"""
# The timer goes last, and not at all ($1: no) where a cut may still be on its way.
MEND = f"""
nft delete table {TABLE} 2>/dev/null
if nft list table {TABLE} >/dev/null 2>&1; then echo "the rule is still there" >&2; exit 1; fi
[ "$1" = yes ] || exit 0
systemctl stop {UNIT}.timer {UNIT}.service 2>/dev/null
systemctl reset-failed {UNIT}.service 2>/dev/null
exit 0
"""
RESOLVE = """for name in "$@"; do getent ahosts "$name" | cut -d ' ' -f 1 | sort -u | sed "s/$/ $name/"; done"""


def rules(addresses: list[tuple[str, int]], user: str) -> str:
    """An nft script: what this user's processes send there is refused at once, as if nobody listened."""
    lines = [
        f'ip{"6" * (":" in address)} daddr {address} tcp dport {port} meta skuid "{user}" reject with tcp reset'
        for address, port in addresses
    ]
    inside = "\n".join(lines)
    return f"table {TABLE} {{\nchain output {{\ntype filter hook output priority 0;\n{inside}\n}}\n}}\n"


@contextmanager
def cut(cluster: Cluster, servers: list[tuple[str, int]], limit: int, tell: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, but no longer than `limit` seconds. servers: host and port of each. Raises Trouble."""
    host = cluster.host
    resolved = host.run("sh", "-c", RESOLVE, "sh", *sorted({name for name, _ in servers})).splitlines()
    known = [line.split(" ", 1) for line in resolved]
    addresses = [(address, port) for address, name in known for other, port in servers if name == other]
    if not addresses:
        raise Trouble(f"{cluster.name}: no address is known of {', '.join(name for name, _ in servers)}")
    # Another drill's timer has the same name: then this one has nothing to undo.
    host.run("sh", "-c", ARM, "sh", str(limit))
    is_made = False
    try:
        host.run("sh", "-c", CUT, "sh", rules(addresses, cluster.standby.postgres_user))
        is_made = True
        yield
    finally:
        if not _is_mended(host, is_made, tell):
            tell(f"{cluster.name} undoes it by itself, {limit} seconds after the cut at the latest")


def _is_mended(host: Host, is_made: bool, tell: Callable[[str], None]) -> bool:
    """Trouble is told, not raised: another may be on its way already."""
    for attempt in range(3):
        try:
            host.run("sh", "-c", MEND, "sh", "yes" if is_made else "no")
            return True
        except Trouble as trouble:
            host.close()
            tell(f"cannot give streaming back, attempt {attempt + 1}: {trouble}")
    return False
