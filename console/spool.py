"""Empty the spool of a standby."""

from .answers import parse_count
from .hosts import Cluster

# Remove segments and nothing else: the prefetch process keeps its own files in the same
# folder, and fetches a segment anew when PostgreSQL asks for it.
SCRIPT = """
for folder in "$1"/*:"$2"/*/; do
    find "$folder" -maxdepth 1 -type f -regex '.*/[0-9A-F]*' -print -delete
done | wc -l
"""


def purge(cluster: Cluster) -> int:
    """Remove the prefetched segments, and return how many there were.

    Raises ConsoleError.
    """
    standby = cluster.standby
    name = standby.barman_server.replace(":", "%3a")
    output = cluster.host.run("sh", "-c", SCRIPT, "sh", standby.spool_dir, name, user=standby.postgres_user)
    return parse_count(cluster.host.name, output)
