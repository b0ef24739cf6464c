"""Do what a standby's ssh key can do on the Barman host, and nothing else.

barman-wal-gate is the forced command of the key, in Barman's authorized_keys:
restrict,from="ADDRESS",command="/usr/local/bin/barman-wal-gate --key SHA256:... SERVER"
ssh-ed25519 ...
"""

import argparse
import os
import signal
import sys
import syslog
import time
from typing import List, Union

from walbasin import VERSION
from walbasin.gate import barman_archive, barman_command, barman_config, child, client, connection_limit
from walbasin.gate.authorized_key import AuthorizedKey
from walbasin.wal import getwal, protocol

# Neither Barman's "not in the archive" (1) nor one of ssh's own (255).
REFUSED = 3
STDERR = 2

Asked = Union[getwal.Request, protocol.Opening, protocol.ListQuery]


def parse(command_line: str, servers: List[str], config: str) -> Asked:
    """Return what a command line asks, of our fetcher or of a stock client.

    servers, config: what the key is for. Raises getwal.Refused.
    """
    if not command_line:
        raise getwal.Refused("this key fetches WAL, it opens no shell")
    if protocol.is_ours(command_line):
        return _check_allowed(protocol.parse_command(command_line), servers, config)
    return _check_allowed(getwal.parse(command_line), servers, config)


def _check_allowed(asked: Asked, servers: List[str], config: str) -> Asked:
    if asked.server not in servers:
        raise getwal.Refused(f"this key does not fetch WAL of server {asked.server!r}")
    if asked.config and not barman_config.is_config(asked.config, config):
        raise getwal.Refused(f"this key does not use the configuration {asked.config!r}")
    return asked._replace(config=config)


def main(words: List[str]) -> int:
    """Serve one ssh connection. Return what `barman get-wal` ended with, or REFUSED."""
    parser = argparse.ArgumentParser(
        prog="barman-wal-gate",
        description="Forced command for a standby's ssh key: serves the WAL of the servers named, and nothing else.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"barman-wal-gate {VERSION}")
    parser.add_argument("-c", "--config", default="", metavar="FILE", help="Barman's configuration file")
    parser.add_argument("--key", default="", metavar="SHA256:...", help="serve only while authorized_keys has this key")
    parser.add_argument("--learn", default="", metavar="FILE", help="write the client's address into a file as well")
    parser.add_argument("servers", nargs="+", metavar="SERVER", help="name of a server in Barman's configuration")
    options = parser.parse_args(words)
    command_line = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    address = os.environ.get("SSH_CONNECTION", "an unknown address").split(" ")[0]
    syslog.openlog("barman-wal-gate", syslog.LOG_PID, syslog.LOG_AUTH)
    # Whatever was started is ended first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(REFUSED))
    try:
        return _serve(parse(command_line, options.servers, options.config), options, address)
    except getwal.Refused as refusal:
        syslog.syslog(syslog.LOG_WARNING, f"refused {command_line[:200]!r} from {address}: {refusal}")
        return _fail(f"refused: {refusal}")
    except (barman_archive.ArchiveMissing, barman_config.UnknownFolders, child.ProgramFailed) as reason:
        return _fail(str(reason))
    except (ConnectionError, TimeoutError):
        return REFUSED  # the client is gone, or does not read
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}")
    except Exception as error:  # no traceback goes to the client
        import traceback

        for line in "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines():
            syslog.syslog(syslog.LOG_ERR, line)
        return _fail("internal error, please report it; the traceback is in this host's log")


def _serve(asked: Asked, options: argparse.Namespace, address: str) -> int:
    """Do what was asked.

    Raises Refused, ArchiveMissing, UnknownFolders, ProgramFailed, OSError.
    """
    key = AuthorizedKey(options.key, asked.server)
    if not key.is_authorized():
        raise getwal.Refused(f"this key fetches no WAL of server {asked.server!r} any more")
    if options.learn:
        _learn(options.learn, address)
    # Apart, so that commands that hang do not keep the fetcher's connections out.
    kind = "connection" if isinstance(asked, protocol.Opening) else "command"
    owner = " ".join([address, options.config, *options.servers])
    if not connection_limit.acquire_slot(f"{kind} {owner}"):
        raise getwal.Refused(f"this key has {connection_limit.MOST} {kind}s already, which is as many as it may have")
    if isinstance(asked, protocol.Opening):
        from walbasin.gate import server

        return server.run(asked, key, owner)
    if isinstance(asked, protocol.ListQuery):
        return _list(asked)
    _check_archive(asked)
    if asked.test:
        print(f"barman-wal-gate {VERSION} serves {' '.join(options.servers)}", file=sys.stderr, flush=True)
    return barman_command.run(asked, client.write, client.STDOUT, STDERR)


def _learn(path: str, address: str) -> None:
    """Write down where a client has come from, and when. Raises OSError.

    The role reads it here: what a standby says would be its own word.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(f"{address} {time.time_ns()}\n")


def _fail(text: str) -> int:
    print(f"barman-wal-gate: {text}", file=sys.stderr)
    return REFUSED


def _list(query: protocol.ListQuery) -> int:
    """Print the names that the archive holds.

    Raises getwal.Refused where Barman itself knows more, ArchiveMissing, OSError.
    """
    try:
        config = barman_config.read_config(query.config, query.server)
        names = barman_archive.list_names(barman_archive.find_folders(config, query.server))
        node = barman_archive.find_passive_node(config, query.server)
    except barman_config.UnknownFolders as reason:
        raise getwal.Refused(f"no list: {reason}") from reason
    first = [] if node is None else [node.to_line()]
    client.write("".join(f"{line}\n" for line in [*first, *names]).encode())
    return 0


def _check_archive(request: getwal.Request) -> None:
    """Raise ArchiveMissing where Barman would say "not found" without having looked."""
    try:
        config = barman_config.read_config(request.config, request.server)
        folders = barman_archive.find_folders(config, request.server)
    except barman_config.UnknownFolders:
        return  # Barman itself knows more
    barman_archive.require_archive(folders)
