"""Do what a standby's ssh key can do on the Barman host, and nothing else.

barman-wal-gate is the forced command of the key, in Barman's authorized_keys:
restrict,from="ADDRESS",command="/usr/local/bin/barman-wal-gate SERVER" ssh-ed25519 ...
"""

import argparse
import os
import sys
import syslog
from typing import List, TypeVar

from walbasin import VERSION
from walbasin.gate import connection_limit
from walbasin.wal import getwal, protocol

# Neither Barman's "not in the archive" (1) nor one of ssh's own (255).
REFUSED = 3

Asked = TypeVar("Asked", getwal.Request, protocol.Opening)


def parse_opening(command_line: str, servers: List[str], config: str) -> protocol.Opening:
    """Return what our fetcher's command line opens.

    servers, config: what the key is for. Raises getwal.Refused.
    """
    return _check_allowed(protocol.parse_opening(command_line), servers, config)


def barman_command(command_line: str, servers: List[str], config: str) -> List[str]:
    """Return the argument vector for a stock client's command line.

    servers, config: what the key is for. Raises getwal.Refused.
    """
    if not command_line:
        raise getwal.Refused("this key fetches WAL, it opens no shell")
    return ["barman", *getwal.arguments(_check_allowed(getwal.parse(command_line), servers, config))]


def _check_allowed(asked: Asked, servers: List[str], config: str) -> Asked:
    if asked.server not in servers:
        raise getwal.Refused(f"this key does not fetch WAL of server {asked.server!r}")
    if asked.config not in ("", config):
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
        if protocol.is_opening_line(command_line):
            from walbasin.gate import server

            return server.run(parse_opening(command_line, options.servers, options.config))
        command = barman_command(command_line, options.servers, options.config)
    except getwal.Refused as refusal:
        syslog.syslog(syslog.LOG_WARNING, f"refused {command_line[:200]!r} from {client}: {refusal}")
        print(f"barman-wal-gate: refused: {refusal}", file=sys.stderr)
        return REFUSED
    if "--test" in command:
        print(f"barman-wal-gate {VERSION} serves {' '.join(options.servers)}", file=sys.stderr, flush=True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        path = os.environ.get("PATH", "")
        print(f"barman-wal-gate: cannot run barman: {error.strerror} (looked in {path})", file=sys.stderr)
        return REFUSED
