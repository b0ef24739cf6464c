"""Do what a standby's ssh key can do on the Barman host, and nothing else.

barman-wal-gate is the forced command of the key, in Barman's authorized_keys:
restrict,from="ADDRESS",command="/usr/local/bin/barman-wal-gate SERVER" ssh-ed25519 ...
"""

import argparse
import os
import sys
import syslog
from typing import List, Union

from walbasin import VERSION
from walbasin.gate import barman_archive, connection_limit
from walbasin.wal import getwal, protocol

# Neither Barman's "not in the archive" (1) nor one of ssh's own (255).
REFUSED = 3

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
    if asked.config and not barman_archive.is_config(asked.config, config):
        raise getwal.Refused(f"this key does not use the configuration {asked.config!r}")
    return asked._replace(config=config)


def main(words: List[str]) -> int:
    """Serve one ssh connection. Return what `barman get-wal` ends with, or REFUSED."""
    parser = argparse.ArgumentParser(
        prog="barman-wal-gate",
        description="Forced command for a standby's ssh key: serves the WAL of the servers named, and nothing else.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"barman-wal-gate {VERSION}")
    parser.add_argument("-c", "--config", default="", metavar="FILE", help="Barman's configuration file")
    parser.add_argument("servers", nargs="+", metavar="SERVER", help="name of a server in Barman's configuration")
    options = parser.parse_args(words)
    command_line = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    client = os.environ.get("SSH_CONNECTION", "an unknown address").split(" ")[0]
    syslog.openlog("barman-wal-gate", syslog.LOG_PID, syslog.LOG_AUTH)
    try:
        if not connection_limit.acquire_slot(" ".join([client, options.config, *options.servers])):
            raise getwal.Refused(
                f"this key has {connection_limit.MOST} connections already, which is as many as it may have"
            )
        asked = parse(command_line, options.servers, options.config)
        if isinstance(asked, protocol.Opening):
            from walbasin.gate import server

            return server.run(asked)
        if isinstance(asked, protocol.ListQuery):
            return _list(asked)
        _check_archive(asked)
    except getwal.Refused as refusal:
        syslog.syslog(syslog.LOG_WARNING, f"refused {command_line[:200]!r} from {client}: {refusal}")
        return _fail(f"refused: {refusal}")
    except (barman_archive.ArchiveMissing, barman_archive.UnknownFolders) as reason:
        return _fail(str(reason))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}")
    if asked.test:
        print(f"barman-wal-gate {VERSION} serves {' '.join(options.servers)}", file=sys.stderr, flush=True)
    try:
        os.execvp("barman", ["barman", *getwal.arguments(asked)])
    except OSError as error:
        path = os.environ.get("PATH", "")
        return _fail(f"cannot run barman: {error.strerror} (looked in {path})")


def _fail(text: str) -> int:
    print(f"barman-wal-gate: {text}", file=sys.stderr)
    return REFUSED


def _list(query: protocol.ListQuery) -> int:
    """Print the names that the archive holds.

    Raises UnknownFolders, ArchiveMissing, OSError.
    """
    config = barman_archive.read_config(query.config)
    names = barman_archive.list_names(barman_archive.find_folders(config, query.server))
    first = [protocol.PASSIVE] if barman_archive.is_passive(config, query.server) else []
    print(*first, *names, sep="\n")
    return 0


def _check_archive(request: getwal.Request) -> None:
    """Raise ArchiveMissing where Barman would say "not found" without having looked."""
    try:
        folders = barman_archive.find_folders(barman_archive.read_config(request.config), request.server)
    except barman_archive.UnknownFolders:
        return  # Barman itself knows more
    barman_archive.require_archive(folders)
