"""Undo the compression that Barman has a filter of its user's for, without Barman.

A start of Barman takes longer than all the rest. What comes is looked at: when it is no
WAL, Barman has to find out why.
"""

import binascii
import contextlib
import os
import time
from typing import BinaryIO, Callable, Iterator, NamedTuple, Optional

from walbasin.gate import barman_archive, child, client
from walbasin.gate.barman_config import Config, UnknownFolders
from walbasin.wal import segment
from walbasin.wal.segment import InvalidWal

COMMAND = "custom_decompression_filter"
# Barman's options, the same from 2.12 to 3.19.1 but for the magic, which came later.
OPTIONS = ("compression", COMMAND, "custom_compression_magic", "path_prefix")
CUSTOM = "custom"
# A filter is the last command of a shell, which gets its input as Barman gives it.
SCRIPT = """undo() {{
{command} <"$1"
}}
undo /dev/stdin"""
# Bytes of a file that is undone in memory, for each connection. Barman would write it
# to its disk.
LARGEST = segment.DEFAULT_SIZE


class FilterFailed(Exception):
    """Report that a filter has brought no WAL; the text says why."""


class Filter(NamedTuple):
    """Hold a filter as Barman has it.

    command: of a shell. magic: what its files begin with, empty when Barman takes all
    files for its own that it does not know. path: folders that come before the PATH.
    """

    command: str
    magic: bytes
    path: str

    def is_for(self, descriptor: int) -> bool:
        """Return whether Barman would take a file for one of this filter."""
        return os.pread(descriptor, len(self.magic), 0) == self.magic


def find_filter(config: Config, server: str) -> Optional[Filter]:
    """Return the filter of a server, or None when only Barman knows."""
    try:
        kind, command, magic, path = barman_archive.find_values(config, server, *OPTIONS)
        if kind.lower() != CUSTOM or not command:
            return None
        return Filter(command, binascii.unhexlify(magic[len("0x") :]), path)
    except (UnknownFolders, ValueError):
        return None


@contextlib.contextmanager
def undo(found: Filter, name: str, descriptor: int, on_wait: Callable[[], None]) -> Iterator[BinaryIO]:
    """Give what a filter makes of a file.

    descriptor: of the file. on_wait: called every child.SIGN_INTERVAL seconds. Raises
    FilterFailed, child.ProgramFailed, OSError when the client is gone.
    """
    try:
        undone = open(os.memfd_create("undone"), "w+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise FilterFailed(f"no memory: {error.strerror}") from error
    with undone:
        _run(found, descriptor, undone, on_wait)
        undone.seek(0)
        try:
            _verify(name, undone)
        except InvalidWal as reason:
            raise FilterFailed(f"{name}: {reason}") from reason
        undone.seek(0)
        yield undone


def _run(found: Filter, descriptor: int, undone: BinaryIO, on_wait: Callable[[], None]) -> None:
    """Write into `undone` what a filter makes of a file. Raises as `undo`."""
    signed_at = time.monotonic()

    def keep(data: bytes) -> None:
        nonlocal signed_at
        if time.monotonic() - signed_at >= child.SIGN_INTERVAL:
            on_wait()
            signed_at = time.monotonic()
        if undone.tell() + len(data) > LARGEST:
            raise FilterFailed(f"more than {LARGEST} bytes")
        try:
            undone.write(data)
        except OSError as error:
            raise FilterFailed(f"no memory: {error.strerror}") from error

    words = ["/bin/sh", "-c", SCRIPT.format(command=found.command)]
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        status = child.relay(words, keep, stdin=descriptor, stderr=null, client=client.STDOUT, path=found.path)
    except child.ProgramFailed as reason:
        raise child.ProgramFailed(f"{COMMAND}: {reason}") from reason
    finally:
        os.close(null)
    if status != 0:
        raise FilterFailed(f"status {status}")


def _verify(name: str, undone: BinaryIO) -> None:
    """Raise InvalidWal unless a file is whole."""
    content = undone.read(segment.HISTORY_LIMIT if segment.is_history_name(name) else segment.LONG_HEADER.size)
    if segment.is_history_name(name):
        segment.parse_history(name, content)
    else:
        segment.verify_segment(name, content, os.fstat(undone.fileno()).st_size, None)
