"""A Barman host without a gate: where its WAL lies, so that not every segment costs a start of Barman.

A Barman that is started takes ten times the CPU of the segment that it sends. What is read here is verified like
everything else, and whatever is not there, or not as it should be, Barman itself is asked for.
"""

import shlex
from typing import NamedTuple

# Seconds. show-servers connects to the primary, which may be why we are asked at all.
INQUIRY_LIMIT = 20


class Inquiry(NamedTuple):
    """Asks for the folder of a server's WAL. Nothing else that Barman says of it (passwords, too) leaves its host."""

    server: str
    config: str = ""

    def line(self) -> str:
        config = f"--config {shlex.quote(self.config)} " if self.config else ""
        ask = f"timeout {INQUIRY_LIMIT} barman {config}show-servers {shlex.quote(self.server)}"
        return f"{ask} 2>/dev/null | grep -m 1 -w wals_directory"

    def is_absent(self, status: int, _stderr: str) -> bool:
        return status == 1


class Reading(NamedTuple):
    """Reads a segment as it is stored. `folder`: see `folder_in`."""

    folder: str
    wal_name: str

    def line(self) -> str:
        return f"cat -- {shlex.quote(f'{self.folder}/{self.wal_name[:16]}/{self.wal_name}')}"

    def is_absent(self, status: int, _stderr: str) -> bool:
        return status == 1


def folder_in(answer: bytes) -> str:
    """The folder that Barman named, or nothing."""
    _, _, path = answer.decode("utf-8", "replace").strip().partition("wals_directory: ")
    return path if path.startswith("/") and path.isprintable() else ""
