"""Find the lines about recovery in the logs of both sides."""

from collections.abc import Iterator

from .hosts import Cluster, ConsoleError, Fleet, Host

# PostgreSQL's lines about the source of its WAL, and ours.
PATTERN = "barman-wal-restore|restored log file|streaming|WAL receiver|recovery|timeline|could not|FATAL|PANIC"
# Ask PostgreSQL's user where the log is: the file of the logging collector, or wherever
# stderr goes, which root may not see in a container. A server that does not run has
# left its log where Debian's packages write it; take the newest.
FIND_LOG = """
cd "$1" || exit
if [ -s current_logfiles ]; then
    file=$(sed -n 's/^[a-z]* //p' current_logfiles | head -n 1) # stderr, csvlog or jsonlog
else
    { read -r pid <postmaster.pid && file=$(readlink "/proc/$pid/fd/2"); } 2>/dev/null ||
        file=$(ls -t /var/log/postgresql/*.log 2>/dev/null | head -n 1)
fi
case $file in
    '' | socket:* | pipe:* | /dev/*) ;;
    *) realpath "$file" ;;
esac
"""
# An empty file name means the journal.
READ_LOG = """
if [ -n "$1" ]; then cat "$1"; else journalctl -q --no-pager -o cat _COMM=postgres; fi | grep -aE "$2" | tail -n "$3"
"""


def excerpts(fleet: Fleet, count: int) -> Iterator[tuple[str, str]]:
    """Return a title and the last `count` lines of each log.

    For a host that cannot be asked the text is the error.
    """
    for host in fleet.standbys:
        try:
            for cluster in fleet.clusters_on(host):
                yield from _read_cluster(cluster, count)
                yield f"{cluster.standby.barman_host}: the gate", _read_gate(fleet, cluster, count)
        except ConsoleError as error:
            yield host.name, str(error)


def _read_cluster(cluster: Cluster, count: int) -> Iterator[tuple[str, str]]:
    host, standby = cluster.host, cluster.standby
    file = host.run("sh", "-c", FIND_LOG, "sh", standby.data_directory, user=standby.postgres_user).rstrip("\n")
    text = host.run("sh", "-c", READ_LOG, "sh", file, PATTERN, str(count)).rstrip()
    yield f"{cluster.name}: PostgreSQL, {file or 'its journal'}", text
    yield f"{cluster.name}: the hourly test", _read_journal(host, count, "-u", f"walbasin-test-{standby.barman_server}")


def _read_journal(host: Host, count: int, *matches: str) -> str:
    return host.run("journalctl", "-q", "--no-pager", "-o", "short-iso", "-n", str(count), *matches).rstrip()


def _read_gate(fleet: Fleet, cluster: Cluster, count: int) -> str:
    """Return the gate's last lines, or the error.

    The Barman host may be another team's, so that an error is no reason to stop.
    """
    try:
        host = fleet.barman(cluster)
        try:
            return _read_journal(host, count, "-t", "barman-wal-gate")
        finally:
            host.close()
    except ConsoleError as error:
        return str(error)
