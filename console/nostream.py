"""Let Patroni keep one member from streaming: its tag `nostream`.

The configuration with the tag is mounted over the member's own file. Nothing on the
disk changes, so that a reboot undoes it.
"""

import re
from typing import Any

import yaml

from .hosts import Cluster
from .outage import Cut
from .text import NotUnderstood

# The first Patroni that knows the tag, and the first PostgreSQL that ends streaming
# without a restart.
PATRONI = (3, 3)
POSTGRES = 13
CHECK = """
realpath -e -- "$1" >/dev/null || exit
command -v findmnt mount umount runuser >/dev/null || { echo "util-linux, which mounts, is not installed" >&2; exit 1; }
"""
# patronictl ends with 0 also when the member has refused.
RELOAD = """
said=$(runuser -u "$2" -- env PATH="$3" LC_ALL=C.UTF-8 patronictl -c "$file" reload "$4" "$5" --force 2>&1)
case $said in
*"Reload request received"* | *"No changes to apply"*) exit 0 ;;
*) printf '%s\\n' "patronictl reload: $said" >&2; exit 1 ;;
esac
"""
MAKE = f"""
file=$(realpath -e -- "$1") && copy=/run/walbasin-drill.yml || exit
cp --attributes-only --preserve=all -- "$file" "$copy" && cat >"$copy" && mount --bind -- "$copy" "$file"
status=$?
rm -f -- "$copy"
[ "$status" = 0 ] || exit 1
{RELOAD}"""
# Lazily: Patroni may read the file at this moment.
UNDO = f"""
file=$(realpath -e -- "$1") || exit
if findmnt --mountpoint "$file" >/dev/null; then umount --lazy -- "$file" || exit; fi
{RELOAD}"""


def can_stop_streaming(member: str, versions: str, server_version: str) -> bool:
    """Return whether the member's Patroni and PostgreSQL can end streaming by the tag.

    versions: the output of patronictl version. server_version: PostgreSQL's.

    >>> can_stop_streaming("chris", "chris: Patroni 4.0.7 PostgreSQL 17.6", "17.6")
    True
    """
    patroni = re.search(rf"^{re.escape(member)}: Patroni (\d+)\.(\d+)", versions, re.MULTILINE)
    server = re.match(r"\d+", server_version)
    if not patroni or not server:
        return False
    return (int(patroni[1]), int(patroni[2])) >= PATRONI and int(server[0]) >= POSTGRES


def parse_identity(host: str, text: str) -> tuple[str, str]:
    """Return scope and name of the member with this configuration.

    Raises NotUnderstood.
    """
    settings = _load(host, text)
    scope, name = settings.get("scope"), settings.get("name")
    if not scope or not name:
        raise NotUnderstood(host, "Patroni's configuration file has no scope, or no name")
    return str(scope), str(name)


def add_tag(host: str, text: str) -> str:
    """Return a configuration of Patroni with the tag.

    Raises NotUnderstood.
    """
    settings = _load(host, text)
    return yaml.safe_dump({**settings, "tags": {**(settings.get("tags") or {}), "nostream": True}})


def _load(host: str, text: str) -> dict[str, Any]:
    """Return what a configuration file has. No error shows its text: it has secrets."""
    try:
        settings = yaml.safe_load(text)
    except (RecursionError, ValueError, yaml.YAMLError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("tags") or {}, dict):
        raise NotUnderstood(host, "Patroni's configuration file")
    return settings


def nostream(cluster: Cluster, text: str) -> Cut:
    """Return how Patroni is told to keep the member from streaming.

    text: its configuration. Raises NotUnderstood.
    """
    standby = cluster.standby
    scope, name = parse_identity(cluster.host.name, text)
    words = (standby.patroni_file, standby.postgres_user, standby.patroni_path, scope, name)
    return Cut(CHECK, MAKE, UNDO, words, add_tag(cluster.host.name, text))
