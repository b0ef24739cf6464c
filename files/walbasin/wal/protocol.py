"""Write and read what fetcher and gate say to each other over ssh: protocol 1.

The ssh command is an opening line, which the gate answers with a greeting. From then on
each request is a line, and each answer one or more frames. Answers come in the order of
the requests. A request need not wait for the answer to the one before.
"""

import shlex
import struct
from typing import NamedTuple, Tuple, Union

from walbasin.wal import getwal, segment

# The first word of an opening line, and of the greeting.
PROGRAM = "barman-wal-gate"
PROTOCOL = "1"
GREETING = f"{PROGRAM} {PROTOCOL} ready".encode()

# The word for a ListQuery.
LIST = "list"

# A frame: its kind, the length of its content in bytes, and the content.
# A file is any number of DATA frames and an END. An empty DATA frame says that the gate
# is at work on it; an empty FOUND frame says so of a file that the archive has, before
# it begins. Where the fetcher has asked for ADAPTIVE compression, an empty REST frame
# among them says once that what follows is the compressed rest of the file.
HEADER = struct.Struct(">cQ")
DATA, FOUND, REST, END, ABSENT, ERROR = b"D", b"F", b"Z", b".", b"A", b"E"
FRAMES = (DATA, FOUND, REST, END, ABSENT, ERROR)
# Bytes.
LONGEST_ERROR = 4096
LONGEST_REQUEST = 64

# How the gate compresses segments that are stored plain: zstd where both ends have it,
# else gzip; always (ZSTD), or while the link is what holds recovery up (ADAPTIVE).
ZSTD, ADAPTIVE = "zstd", "auto"
# What a fetcher may ask for, beside nothing.
COMPRESSIONS = (*getwal.COMPRESSIONS, ZSTD, ADAPTIVE)


class Opening(NamedTuple):
    """Hold what all requests of a connection have in common.

    accepts: the compressions (see wal.compression) that the fetcher can decompress.
    compression: how the gate compresses what is stored plain (COMPRESSIONS), or empty.
    config: Barman's configuration file, or empty.
    """

    server: str
    accepts: Tuple[str, ...]
    compression: str = ""
    config: str = ""


class ListQuery(NamedTuple):
    """Ask a gate for the names of all WAL that the archive of a server holds.

    It is an ssh command of its own. The output has a name in each line, and the line of
    a PassiveNode before them when this Barman copies the archive of another one.
    """

    server: str
    config: str = ""

    def command_line(self) -> str:
        return " ".join([PROGRAM, PROTOCOL, LIST, shlex.quote(self.server), shlex.quote(self.config)])

    def means_absent(self, _status: int, _stderr: str) -> bool:
        return False


def opening_line(opening: Opening) -> str:
    """Return the ssh command of a connection."""
    words = (opening.server, ",".join(opening.accepts), opening.compression, opening.config)
    return " ".join([PROGRAM, PROTOCOL, *map(shlex.quote, words)])


def is_ours(command_line: str) -> bool:
    """Return whether an ssh command is an opening line, or a ListQuery's."""
    return command_line.split(" ", 1)[0] == PROGRAM


def parse_command(command_line: str) -> Union[Opening, ListQuery]:
    """Return what a command line of our fetcher asks. Raises getwal.Refused."""
    words = getwal.split(command_line)
    if words[:1] != [PROGRAM] or len(words) not in (5, 6):
        raise getwal.Refused("not a command line of barman-wal-restore")
    if words[1] != PROTOCOL:
        raise getwal.Refused(f"protocol {words[1]} is not spoken here, only {PROTOCOL}")
    if len(words) == 5:
        _, _, word, server, config = words
        if word != LIST:
            raise getwal.Refused(f"{word!r} is not served here")
        return ListQuery(_check_server(server), config)
    _, _, server, accepts, compression, config = words
    if compression and compression not in COMPRESSIONS:
        raise getwal.Refused(f"no compression {compression!r} here")
    return Opening(_check_server(server), tuple(accepts.split(",")), compression, config)


def _check_server(server: str) -> str:
    if server.startswith("-"):
        raise getwal.Refused(f"no server is called {server!r}")
    return server


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
