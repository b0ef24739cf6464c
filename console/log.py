"""Find the lines about recovery in the logs of both sides."""

from collections.abc import Iterator

from .hosts import Cluster, Fleet, Host
from .text import ConsoleError, printable

# PostgreSQL's lines about the source of its WAL, and ours.
PATTERN = "barman-wal-restore|restored log file|streaming|WAL receiver|recovery|timeline|could not|FATAL|PANIC"
# Bytes of a log file that are searched, from its end.
MOST_SEARCHED = 256 << 20
# As PostgreSQL's user: print the name of its log, and the last of its lines. The name
# is that of the logging collector, or of wherever stderr goes, which root may not see
# in a container. A server that does not run has left its log where Debian's packages
# write it; take the newest. Read a regular file only, and look after the name was
# resolved: it is PostgreSQL's word. Print an empty line when it logs to the journal.
READ_LOG = """
cd "$1" || exit
if [ -f current_logfiles ] && [ -s current_logfiles ]; then
    file=$(head -c 65536 current_logfiles | sed -n 's/^[a-z]* //p' | head -n 1) # stderr, csvlog or jsonlog
else
    { [ -f postmaster.pid ] && read -r pid <postmaster.pid && file=$(readlink "/proc/$pid/fd/2"); } 2>/dev/null ||
        file=$(ls -t /var/log/postgresql/*.log 2>/dev/null | head -n 1)
fi
case $file in
    '' | socket:* | pipe:* | /dev/*) echo; exit ;;
esac
file=$(realpath -- "$file") || exit
if [ ! -f "$file" ]; then echo "its log, $file, is no regular file" >&2; exit 1; fi
printf '%s\\n' "$file"
tail -c "$4" -- "$file" | grep -aE -- "$2" | tail -n "$3" | cut -b -4000
"""
READ_JOURNAL = """journalctl -q --no-pager -o cat _COMM=postgres | grep -aE -- "$1" | tail -n "$2" | cut -b -4000"""


def excerpts(fleet: Fleet, count: int) -> Iterator[tuple[str, list[str]]]:
    """Return a title and the last `count` lines of each log.

    For a host that cannot be asked the only line is the error.
    """
    for host in fleet.standbys:
        try:
            clusters = fleet.clusters_on(host)
        except ConsoleError as error:
            yield host.name, [str(error)]
            continue
        for cluster in clusters:
            yield _read_server(cluster, count)
            unit = f"walbasin-test-{cluster.standby.barman_server}"
            yield f"{cluster.name}: the hourly test", _read_journal(host, count, "-u", unit)
            for name in cluster.standby.barman_hosts:
                yield f"{name}: the gate", _read_gate(fleet, name, count)


def _read_server(cluster: Cluster, count: int) -> tuple[str, list[str]]:
    standby, title = cluster.standby, f"{cluster.name}: PostgreSQL"
    words = (standby.data_directory, PATTERN, str(count), str(MOST_SEARCHED))
    try:
        output = cluster.host.run("sh", "-c", READ_LOG, "sh", *words, user=standby.postgres_user)
        file, _, text = output.partition("\n")
        if not file:
            text = cluster.host.run("sh", "-c", READ_JOURNAL, "sh", PATTERN, str(count))
    except ConsoleError as error:
        return title, [str(error)]
    return f"{title}, {file or 'its journal'}", _lines(text)


def _lines(text: str) -> list[str]:
    return [printable(line) for line in text.rstrip("\n").split("\n") if line]


def _read_journal(host: Host, count: int, *matches: str) -> list[str]:
    words = ("journalctl", "-q", "--no-pager", "-o", "short-iso", "-n", str(count), *matches)
    try:
        return _lines(host.run(*words))
    except ConsoleError as error:
        return [str(error)]


def _read_gate(fleet: Fleet, name: str, count: int) -> list[str]:
    """Return the last lines of the gate on a Barman host, or the error.

    The Barman host may be another team's, so that an error is no reason to stop.
    """
    try:
        return _read_journal(fleet.host(name), count, "-t", "barman-wal-gate")
    except ConsoleError as error:
        return [str(error)]
