"""What the logs say of recovery, on both sides."""

from collections.abc import Iterator

from .hosts import Cluster, Fleet, Host, Trouble

# PostgreSQL's own lines about where its WAL comes from, and ours.
MATTERS = "barman-wal-restore|restored log file|streaming|WAL receiver|recovery|timeline|could not|FATAL|PANIC"
# Where the log goes: a file of its collector, or wherever stderr does, which root may not see in a container.
# Of a server that does not run, the newest where Debian's packages log.
FIND = """
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
# An empty name stands for the journal.
READ = """
if [ -n "$1" ]; then cat "$1"; else journalctl -q --no-pager -o cat _COMM=postgres; fi | grep -aE "$2" | tail -n "$3"
"""


def of(fleet: Fleet, lines: int) -> Iterator[tuple[str, str]]:
    """A title and the last lines, for each cluster and its Barman host; of one that is silent, why."""
    for host in fleet.standbys:
        try:
            for cluster in fleet.clusters_on(host):
                yield from _of_cluster(cluster, lines)
                yield f"{cluster.standby.barman_host}: the gate", _gate(fleet, cluster, lines)
        except Trouble as trouble:
            yield host.name, str(trouble)


def _of_cluster(cluster: Cluster, lines: int) -> Iterator[tuple[str, str]]:
    host, standby = cluster.host, cluster.standby
    file = host.run("sh", "-c", FIND, "sh", standby.data_directory, user=standby.postgres_user).rstrip("\n")
    text = host.run("sh", "-c", READ, "sh", file, MATTERS, str(lines)).rstrip()
    yield f"{cluster.name}: PostgreSQL, {file or 'its journal'}", text
    yield f"{cluster.name}: the hourly test", _journal(host, lines, "-u", f"walbasin-test-{standby.barman_server}")


def _journal(host: Host, lines: int, *which: str) -> str:
    return host.run("journalctl", "-q", "--no-pager", "-o", "short-iso", "-n", str(lines), *which).rstrip()


def _gate(fleet: Fleet, cluster: Cluster, lines: int) -> str:
    """The Barman host may be another team's: then why it says nothing is all there is."""
    try:
        host = fleet.barman(cluster)
        try:
            return _journal(host, lines, "-t", "barman-wal-gate")
        finally:
            host.close()
    except Trouble as trouble:
        return str(trouble)
