"""The basin of a standby, from outside."""

from .hosts import Cluster

# Segments are all that is taken. What the background process works with stays, and it fetches anew what is asked for.
SCRIPT = """
for folder in "$1"/*:"$2":"$3"/*/; do
    find "$folder" -maxdepth 1 -type f -regex '.*/[0-9A-F]*' -print -delete
done | wc -l
"""


def purge(cluster: Cluster) -> int:
    """Remove the segments in it. Returns how many. Raises Trouble."""
    standby = cluster.standby
    names = [name.replace(":", "%3a") for name in (standby.barman_host, standby.barman_server)]
    return int(cluster.host.run("sh", "-c", SCRIPT, "sh", standby.spool_dir, *names, user=standby.postgres_user))
