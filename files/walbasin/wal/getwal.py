"""The `barman get-wal` command line: what stock clients send, we too where no gate is, and what a gate lets through.

The forms are those that the barman-wal-restore of Barman 1.6.1 to 3.19.1 sends.
"""

import shlex
from typing import List, NamedTuple, Optional

from walbasin.wal import segment

# What released clients ask with --test.
DUMMY_WAL_NAME = "dummy_wal_name"
COMPRESSIONS = ("gzip", "bzip2")
LARGEST_PEEK = 1024
LONGEST_LINE = 4096


class Refused(Exception):
    """Not a command line of a released client; the text says what is wrong with it."""


class Request(NamedTuple):
    """One `barman get-wal`."""

    server: str
    wal_name: str
    config: str = ""
    test: bool = False
    peek: int = 0
    compression: str = ""
    keep_compression: bool = False
    partial: bool = False

    def line(self) -> str:
        return command_line(self)

    def is_absent(self, status: int, stderr: str) -> bool:
        return says_absent(self.wal_name, status, stderr)


def arguments(request: Request) -> List[str]:
    """The words that follow `barman`."""
    words = ["--config", request.config] if request.config else []
    words.append("get-wal")
    words += ["--test"] if request.test else []
    words += ["--peek", str(request.peek)] if request.peek else []
    words += [f"--{request.compression}"] if request.compression else []
    words += ["--keep-compression"] if request.keep_compression else []
    words += ["--partial"] if request.partial else []
    return [*words, request.server, request.wal_name]


def command_line(request: Request) -> str:
    """What goes to the shell (or the forced command) at the other end."""
    return " ".join(["barman", *map(shlex.quote, arguments(request))])


def says_absent(wal_name: str, status: int, stderr: str) -> bool:
    """Barman's exit status 1 covers its other errors too: only its own words are a "no"."""
    return status == 1 and f"WAL file '{wal_name}' not found in server" in stderr


def split(line: str) -> List[str]:
    """The words of a command line, as a shell would see them. Raises Refused."""
    if len(line) > LONGEST_LINE or not line.isprintable():
        raise Refused("too long, or with characters that no WAL has in its name")
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Refused(str(error).lower()) from None


def parse(line: str) -> Request:
    """The request in a client's command line. Raises Refused."""
    words = split(line)
    if not words or words.pop(0) != "barman":
        raise Refused("only barman get-wal is served here")
    config = _value(words, "--config") or ""
    if not words or words.pop(0) != "get-wal":
        raise Refused("only barman get-wal is served here")
    if len(words) < 2:
        raise Refused("server or WAL name is missing")
    *options, server, wal_name = words
    # A client sends its options in this order, each at most once.
    test = _flag(options, "--test")
    peek = _count(_value(options, "--peek"))
    compression = next((name for name in COMPRESSIONS if _flag(options, f"--{name}")), "")
    keep_compression = _flag(options, "--keep-compression")
    partial = _flag(options, "--partial")
    if options:
        raise Refused(f"option {options[0]!r} is not served here")
    if server.startswith("-"):
        raise Refused(f"no server is called {server!r}")
    if not (segment.is_file(wal_name) or (test and wal_name == DUMMY_WAL_NAME)):
        raise Refused(f"{wal_name!r} is no name of a WAL or history file")
    return Request(server, wal_name, config, test, peek, compression, keep_compression, partial)


def _flag(words: List[str], name: str) -> bool:
    if words[:1] != [name]:
        return False
    words.pop(0)
    return True


def _value(words: List[str], name: str) -> Optional[str]:
    if not _flag(words, name):
        return None
    if not words:
        raise Refused(f"{name} needs a value")
    return words.pop(0)


def _count(text: Optional[str]) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST_PEEK):
        raise Refused(f"--peek {text!r} is not a number from 1 to {LARGEST_PEEK}")
    return int(text)
