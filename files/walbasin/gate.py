"""barman-wal-gate: all that a standby's ssh key can do on the Barman host.

The forced command of the key, in Barman's authorized_keys:
restrict,from="ADDRESS",command="/usr/local/bin/barman-wal-gate SERVER" ssh-ed25519 ...
"""

import argparse
import os
import sys
import syslog
from typing import List

from walbasin import VERSION, getwal

# Neither Barman's "not in the archive" (1) nor one of ssh's own (255).
REFUSED = 3


def barman_command(line: str, servers: List[str], config: str) -> List[str]:
    """The argument vector for a client's line, when it asks for WAL of one of `servers`. Raises getwal.Refused."""
    if not line:
        raise getwal.Refused("this key fetches WAL, it opens no shell")
    request = getwal.parse(line)
    if request.server not in servers:
        raise getwal.Refused(f"this key does not fetch WAL of server {request.server!r}")
    if request.config not in ("", config):
        raise getwal.Refused(f"this key does not use the configuration {request.config!r}")
    return ["barman", *getwal.arguments(request._replace(config=config))]


def main(words: List[str]) -> int:
    """Ends as `barman get-wal` does, or with REFUSED."""
    parser = argparse.ArgumentParser(
        prog="barman-wal-gate",
        description="Forced command for a standby's ssh key: serves the WAL of the servers named, and nothing else.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"barman-wal-gate {VERSION}")
    parser.add_argument("-c", "--config", default="", metavar="FILE", help="Barman's configuration file")
    parser.add_argument("servers", nargs="+", metavar="SERVER", help="name of a server in Barman's configuration")
    options = parser.parse_args(words)
    line = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    try:
        command = barman_command(line, options.servers, options.config)
    except getwal.Refused as refusal:
        client = os.environ.get("SSH_CONNECTION", "an unknown address").split(" ")[0]
        syslog.openlog("barman-wal-gate", syslog.LOG_PID, syslog.LOG_AUTH)
        syslog.syslog(syslog.LOG_WARNING, f"refused {line[:200]!r} from {client}: {refusal}")
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
