"""Write and read the `barman get-wal` command line.

Stock clients send it, we too where no gate is, and a gate lets it through. The forms
are those that the barman-wal-restore of Barman 1.6.1 to 3.19.1 sends.
"""

import shlex
from typing import List, NamedTuple, Optional

from walbasin.wal import segment

# What released clients ask for with --test.
DUMMY_WAL_NAME = "dummy_wal_name"
COMPRESSIONS = ("gzip", "bzip2")
# Segments that one --peek may ask for.
LARGEST_PEEK = 1024
# Characters.
LONGEST_LINE = 4096


class Refused(Exception):
    """Report that this is no command line of a released client; the text says why."""


class Request(NamedTuple):
    """Hold one `barman get-wal`."""

    server: str
    wal_name: str
    config: str = ""
    test: bool = False
    peek: int = 0
    compression: str = ""
    keep_compression: bool = False
    partial: bool = False

    def command_line(self) -> str:
        """Return what goes to the shell (or the forced command) at the other end."""
        return " ".join(["barman", *map(shlex.quote, arguments(self))])

    def means_absent(self, status: int, stderr: str) -> bool:
        """Return whether Barman has answered that it does not have the file."""
        return means_absent(self.wal_name, status, stderr)


def arguments(request: Request) -> List[str]:
    """Return the words that follow `barman`."""
    words = ["--config", request.config] if request.config else []
    words.append("get-wal")
    words += ["--test"] if request.test else []
    words += ["--peek", str(request.peek)] if request.peek else []
    words += [f"--{request.compression}"] if request.compression else []
    words += ["--keep-compression"] if request.keep_compression else []
    words += ["--partial"] if request.partial else []
    return [*words, request.server, request.wal_name]


def means_absent(wal_name: str, status: int, stderr: str) -> bool:
    """Return whether Barman says "no": its status 1 covers other errors too."""
    return status == 1 and f"WAL file '{wal_name}' not found in server" in stderr


def split(command_line: str) -> List[str]:
    """Return the words of a command line, as a shell would see them. Raises Refused."""
    if len(command_line) > LONGEST_LINE or not command_line.isprintable():
        raise Refused("too long, or with characters that no WAL has in its name")
    try:
        return shlex.split(command_line)
    except ValueError as error:
        raise Refused(str(error).lower()) from None


def parse(command_line: str) -> Request:
    """Return the request in a client's command line. Raises Refused."""
    words = split(command_line)
    if not words or words.pop(0) != "barman":
        raise Refused("only barman get-wal is served here")
    config = _take_value(words, "--config") or ""
    if not words or words.pop(0) != "get-wal":
        raise Refused("only barman get-wal is served here")
    if len(words) < 2:
        raise Refused("server or WAL name is missing")
    *options, server, wal_name = words
    # A client sends its options in this order, each at most once.
    test = _take_flag(options, "--test")
    peek = _parse_count(_take_value(options, "--peek"))
    compression = next((name for name in COMPRESSIONS if _take_flag(options, f"--{name}")), "")
    keep_compression = _take_flag(options, "--keep-compression")
    partial = _take_flag(options, "--partial")
    if options:
        raise Refused(f"option {options[0]!r} is not served here")
    if server.startswith("-"):
        raise Refused(f"no server is called {server!r}")
    if not (segment.is_wal_file_name(wal_name) or (test and wal_name == DUMMY_WAL_NAME)):
        raise Refused(f"{wal_name!r} is no name of a WAL or history file")
    return Request(
        server,
        wal_name,
        config=config,
        test=test,
        peek=peek,
        compression=compression,
        keep_compression=keep_compression,
        partial=partial,
    )


def _take_flag(words: List[str], name: str) -> bool:
    """Remove an option, if it comes first. Return whether it did."""
    if words[:1] != [name]:
        return False
    words.pop(0)
    return True


def _take_value(words: List[str], name: str) -> Optional[str]:
    """Remove an option and its value. Return the value. Raises Refused."""
    if not _take_flag(words, name):
        return None
    if not words:
        raise Refused(f"{name} needs a value")
    return words.pop(0)


def _parse_count(text: Optional[str]) -> int:
    """Return the number of --peek, 0 where it was not given. Raises Refused."""
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST_PEEK):
        raise Refused(f"--peek {text!r} is not a number from 1 to {LARGEST_PEEK}")
    return int(text)
