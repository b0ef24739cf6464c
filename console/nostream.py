"""Let Patroni keep one member from streaming: its tag `nostream`.

The configuration with the tag is mounted over the member's own file. Nothing on the
disk changes, so that a reboot undoes it.
"""

import re
from typing import Any

import yaml

from .hosts import Cluster
from .outage import Interruption
from .patroni import parse_configuration

# The first Patroni that knows the tag, and the first PostgreSQL that ends streaming
# without a restart.
PATRONI = (3, 3)
POSTGRES = 13
# $1 is Patroni's file, $2 its user, $3 how many bytes the other configuration has.
FIND_PATRONI = """
patroni=$(pgrep -u "$2" -a -f patroni | awk -v file="$1" '$NF == file && $(NF - 1) ~ /(^|\\/)patroni$/ {print $1}')
"""
# Nobody but root can put another file in its place: it would get the contents.
REQUIRE_ROOTS_FOLDERS = """
[ "$(realpath -e -- "$1")" = "$1" ] || { echo "$1 is a link" >&2; exit 1; }
folder=$1
until [ "$folder" = / ]; do
    folder=$(dirname -- "$folder")
    case $(stat -c %u:%A -- "$folder") in
    0:d????-??-?*) ;;
    *) echo "$folder is not root's alone" >&2; exit 1 ;;
    esac
done
"""
CHECK = f"""
for program in awk findmnt mount pgrep umount; do
    command -v "$program" >/dev/null || {{ echo "$program is not installed" >&2; exit 1; }}
done
{REQUIRE_ROOTS_FOLDERS}
if findmnt --mountpoint "$1" >/dev/null; then echo "$1 is a mount already" >&2; exit 1; fi
mount --bind -- "$1" "$1" && umount -- "$1" || exit
{FIND_PATRONI}
[ -n "$patroni" ] || {{ echo "no patroni runs with $1" >&2; exit 1; }}
"""
COPY = "/run/walbasin-drill.yml"
# As POST /reload does, but also while the store of the cluster is away.
RELOAD = f"""
{FIND_PATRONI}
[ -z "$patroni" ] || kill -HUP $patroni
"""
# Of a connection that breaks only a part may come.
MAKE = f"""
{REQUIRE_ROOTS_FOLDERS}
cp --attributes-only --preserve=all -- "$1" {COPY} && cat >{COPY} && {{
    [ "$(wc -c <{COPY})" = "$3" ] || {{ echo "only a part of the configuration has come" >&2; false; }}
}} && mount --bind -- {COPY} "$1"
status=$?
rm -f {COPY}
[ "$status" = 0 ] || exit 1
{RELOAD}"""
# Lazily: Patroni may read the file at this moment. A Patroni that starts later reads
# the file as it is.
UNDO = f"""
rm -f {COPY}
[ -e "$1" ] || exit 0
case $(findmnt --noheadings --output SOURCE --mountpoint "$1") in
*/walbasin-drill.yml*) umount --lazy -- "$1" || exit ;;
esac
{RELOAD}"""


def can_stop_streaming(member: str, versions: str, server_version: str, dynamic: dict[str, Any]) -> bool:
    """Return whether the tag ends streaming, and nothing else, on this member.

    versions: the output of patronictl version. server_version: PostgreSQL's. dynamic:
    the dynamic configuration. A paused Patroni does not look at the tag. With permanent
    logical slots it restarts PostgreSQL afterwards, to copy them.

    >>> can_stop_streaming("chris", "chris: Patroni 4.0.7 PostgreSQL 17.6", "17.6", {})
    True
    """
    slots = dynamic.get("slots") or {}
    is_physical = isinstance(slots, dict) and all(
        isinstance(slot, dict) and slot.get("type") == "physical" for slot in slots.values()
    )
    if dynamic.get("pause") or not is_physical:
        return False
    patroni = re.search(rf"^{re.escape(member)}: Patroni (\d+)\.(\d+)", versions, re.MULTILINE)
    server = re.match(r"\d+", server_version)
    if not patroni or not server:
        return False
    return (int(patroni[1]), int(patroni[2])) >= PATRONI and int(server[0]) >= POSTGRES


def add_tag(host: str, text: str) -> str:
    """Return a configuration of Patroni with the tag.

    Raises NotUnderstood.
    """
    settings = parse_configuration(host, text)
    return yaml.safe_dump({**settings, "tags": {**(settings.get("tags") or {}), "nostream": True}})


def nostream(cluster: Cluster, text: str) -> Interruption:
    """Return how Patroni is told to keep the member from streaming.

    text: its configuration. Raises NotUnderstood.
    """
    changed = add_tag(cluster.host.name, text)
    words = (cluster.standby.patroni_file, cluster.standby.postgres_user, str(len(changed.encode())))
    return Interruption(check=CHECK, make=MAKE, undo=UNDO, words=words, text=changed)
