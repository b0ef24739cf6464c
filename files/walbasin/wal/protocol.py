"""Write and read what fetcher and gate say to each other over ssh: protocol 1.

The ssh command is an opening line, which the gate answers with a greeting. From then on
each request is a line, and each answer one or more frames. Answers come in the order of
the requests. A request need not wait for the answer to the one before.
"""

import shlex
import struct
from typing import NamedTuple, Tuple

from walbasin.wal import getwal, segment

# The first word of an opening line, and of the greeting.
PROGRAM = "barman-wal-gate"
PROTOCOL = "1"
GREETING = f"{PROGRAM} {PROTOCOL} ready".encode()

# A frame: its kind, the length of its content in bytes, and the content.
# A file is any number of DATA frames and an END.
HEADER = struct.Struct(">cQ")
DATA, END, ABSENT, ERROR = b"D", b".", b"A", b"E"
FRAMES = (DATA, END, ABSENT, ERROR)
# Bytes.
LONGEST_ERROR = 4096
LONGEST_REQUEST = 64


class Opening(NamedTuple):
    """Hold what all requests of a connection have in common.

    accepts: the compressions (see wal.compression) that the fetcher can decompress.
    compression: how the gate compresses a file that is stored plain, or empty.
    config: Barman's configuration file, or empty.
    """

    server: str
    accepts: Tuple[str, ...]
    compression: str = ""
    config: str = ""


def opening_line(opening: Opening) -> str:
    """Return the ssh command of a connection."""
    words = (opening.server, ",".join(opening.accepts), opening.compression, opening.config)
    return " ".join([PROGRAM, PROTOCOL, *map(shlex.quote, words)])


def is_opening_line(command_line: str) -> bool:
    """Return whether an ssh command comes from our fetcher."""
    return command_line.split(" ", 1)[0] == PROGRAM


def parse_opening(command_line: str) -> Opening:
    """Return what opening_line was made of. Raises getwal.Refused."""
    words = getwal.split(command_line)
    if len(words) != 6 or words[0] != PROGRAM:
        raise getwal.Refused("not an opening line")
    _, protocol, server, accepts, compression, config = words
    if protocol != PROTOCOL:
        raise getwal.Refused(f"protocol {protocol} is not spoken here, only {PROTOCOL}")
    if compression and compression not in getwal.COMPRESSIONS:
        raise getwal.Refused(f"no compression {compression!r} here")
    if server.startswith("-"):
        raise getwal.Refused(f"no server is called {server!r}")
    return Opening(server, tuple(accepts.split(",")), compression, config)


def request_line(name: str) -> bytes:
    """Return the request for one WAL or history file."""
    return name.encode("ascii") + b"\n"


def parse_request(line: bytes) -> str:
    """Return the name that a line (without its end) asks for. Raises getwal.Refused."""
    name = line.decode("ascii", "replace")
    if not segment.is_wal_file_name(name):
        raise getwal.Refused(f"{name!r} is no name of a WAL or history file")
    return name


def frame(kind: bytes, content: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(kind, len(content)) + content
