"""Parse the command line: every option of Barman's own tool, with its meaning."""

import argparse
import re
from typing import List, NoReturn, Optional, Sequence, Tuple

from walbasin import VERSION, policy
from walbasin.local import ipc
from walbasin.wal import getwal, protocol, segment

# The stock tool's folder. The spool trusts nothing that it finds there.
SPOOL = "/var/tmp/barman-wal-restore"  # noqa: S108
# Seconds that a point-in-time recovery tries.
RETRY_SECONDS = 600
# Bytes a second: what --rate-limit's suffixes stand for, and the least that it may be.
# Less would be a trickle, which counts as silence (remote/ssh.py).
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
LEAST_RATE = 64 * 10**3
# The forms of --status.
PLAIN, JSON, PROMETHEUS = "plain", "json", "prometheus"
# --status needs no file. It needs a place in the data directory that it is about: the
# one that it is called in.
SOME_DESTINATION = "pg_wal/RECOVERYXLOG"
# What --compress takes, beside protocol.COMPRESSIONS.
NO_COMPRESSION = "none"
# Barman hosts that one command line may name.
MOST_HOSTS = 8


class UsageError(Exception):
    """Report that the command line cannot be carried out; the text says why."""


class Options(argparse.Namespace):
    """Hold the values of a command line.

    barman_host: as it was given. barman_hosts: the names in it, the preferred first.
    """

    barman_host: str
    barman_hosts: Tuple[str, ...]
    server_name: str
    wal_name: str
    wal_dest: str
    user: str
    port: Optional[int]
    ssh_config: Optional[str]
    config: str
    sleep: int
    parallel: int
    compression: str
    rate_limit: int
    keep_compression: bool
    partial: bool
    test: bool
    status: bool
    form: str
    spool_dir: str
    mode: Optional[str]
    any_timeline: bool
    retry: int
    accept_passive: bool
    fingerprint: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see barman-wal-restore -h)")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


_count.__name__ = "number"


def parse_rate(text: str) -> int:
    """Return bytes a second. Raises ArgumentTypeError.

    >>> parse_rate("20M")
    20000000
    """
    match = re.fullmatch(r"([0-9]+)([kMG]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes a second, such as 20M (with k, M or G)")
    rate = int(match.group(1)) * UNITS[match.group(2)]
    if rate < LEAST_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} is too little: {LEAST_RATE // UNITS['k']}k a second is the least")
    return rate


def _parser(has_file: bool = True) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="barman-wal-restore",
        description="PostgreSQL's restore_command: fetches WAL from a Barman host over ssh, ahead of replay.",
        epilog="restore_command = 'barman-wal-restore -p 8 -s 10 barman angus %%f \"%%p\"'. "
        "Exit status: 0 delivered, 1 not in the archive, 2 could not find out, 3 refused what came, 4 wrong usage; "
        "200 where any of these would end a point-in-time recovery early.",
    )
    add = parser.add_argument
    add("-V", "--version", action="version", version=f"barman-wal-restore {VERSION}")
    add(
        "-U",
        "--user",
        default="barman",
        help="user on the Barman host; '': as ssh is configured (default: %(default)s)",
    )
    add("--port", type=_count, help="ssh port of the Barman host")
    add("--ssh-config", metavar="FILE", help="ssh's configuration file (ssh -F)")
    add("-c", "--config", default="", metavar="FILE", help="Barman's configuration file, on its host")
    add("-s", "--sleep", type=_count, default=0, metavar="SECONDS", help="wait after an error (default: %(default)s)")
    add(
        *("-p", "--parallel"),
        type=_count,
        default=0,
        metavar="JOBS",
        help="segments to keep ready ahead of replay, by a prefetch process (default: %(default)s, off)",
    )
    compression = parser.add_mutually_exclusive_group()
    for short, name in (("-z", "gzip"), ("-j", "bzip2")):
        compression.add_argument(
            *(short, f"--{name}"),
            dest="compression",
            action="store_const",
            const=name,
            default=protocol.ADAPTIVE,
            help=f"transfer with {name}",
        )
    compression.add_argument(
        "--compress",
        dest="compression",
        choices=(protocol.ADAPTIVE, NO_COMPRESSION, *getwal.COMPRESSIONS, protocol.ZSTD),
        default=protocol.ADAPTIVE,
        help="how to transfer what is stored plain; auto: with zstd or gzip while the link is what holds recovery up, "
        "if there is a gate (default: %(default)s)",
    )
    add(
        "--rate-limit",
        type=parse_rate,
        default=0,
        metavar="BYTES",
        help="bytes a second of all connections together, such as 20M (default: no limit)",
    )
    add("--keep-compression", action="store_true", help="transfer files as they are stored, decompress them here")
    add("-P", "--partial", action="store_true", help="deliver the last .partial, when there is nothing else")
    add("-t", "--test", action="store_true", help="test the way to Barman and back, and deliver nothing")
    add("--status", action="store_true", help="say what was done and how the last -t ended, and deliver nothing")
    form = parser.add_mutually_exclusive_group()
    for name, text in ((JSON, "as one line of JSON"), (PROMETHEUS, "as metrics for Prometheus")):
        form.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, default=PLAIN, help=f"--status, {text}"
        )
    add("--spool-dir", default=SPOOL, metavar="DIR", help="where fetched files wait (default: %(default)s)")
    add(
        "--mode",
        choices=(policy.STANDBY, policy.RECOVERY),
        help="a standby, or a point-in-time recovery (default: as the signal files or recovery.conf say)",
    )
    add("--any-timeline", action="store_true", help="deliver a history with which this standby could not start, too")
    add(
        "--retry",
        type=_count,
        default=RETRY_SECONDS,
        metavar="SECONDS",
        help="in a point-in-time recovery, how long to try before PostgreSQL is stopped (default: %(default)s)",
    )
    add(
        "--accept-passive",
        action="store_true",
        help="let a point-in-time recovery end with what passive Barman nodes have",
    )
    add(
        "barman_host",
        metavar="BARMAN_HOST",
        help="the Barman host, as ssh knows it; or several with commas between them, the preferred one first",
    )
    add("server_name", metavar="SERVER_NAME", help="the server in Barman's configuration")
    add("wal_name", metavar="WAL_NAME", help="%%f", nargs=None if has_file else "?", default="")
    add("wal_dest", metavar="WAL_DEST", help="%%p", nargs=None if has_file else "?", default=SOME_DESTINATION)
    return parser


def parse_hosts(text: str) -> Tuple[str, ...]:
    """Return the names of the Barman hosts, the preferred one first. Raises UsageError.

    >>> parse_hosts("barman,barman2")
    ('barman', 'barman2')
    """
    hosts = tuple(text.split(","))
    if not all(hosts):
        raise UsageError(f"a Barman host without a name in {text!r}: give names with one comma between them")
    if any(host.startswith("-") for host in hosts):
        raise UsageError("no Barman host has a name that begins with '-'")
    twice = next((host for host in hosts if hosts.count(host) > 1), "")
    if twice:
        raise UsageError(f"the Barman host {twice} is named twice in {text!r}: name each host once")
    if len(hosts) > MOST_HOSTS:
        raise UsageError(f"{len(hosts)} Barman hosts, and {MOST_HOSTS} is as many as there may be")
    return hosts


def parse(words: List[str], deployed: Sequence[str] = ()) -> Options:
    """Return the values of a command line. Raises UsageError.

    deployed: another one, whose options count where none are given. -h and -V print,
    and end the process with 0.
    """
    options = Options()
    if deployed:
        options = _parser().parse_args(list(deployed), options)
    options = _parser(has_file="--status" not in words).parse_args(words, options)
    options.barman_hosts = parse_hosts(options.barman_host)
    if options.server_name.startswith("-"):
        raise UsageError("no server has a name that begins with '-'")
    if options.form != PLAIN and not options.status:
        raise UsageError(f"--{options.form} is a form of --status")
    if not options.test and not options.status and not segment.is_wal_file_name(options.wal_name):
        raise UsageError(f"{options.wal_name!r} is no name of a WAL or history file")
    options.fingerprint = ipc.fingerprint(words, options.wal_name, options.wal_dest)
    return options
