"""Undo the compression that Barman has a filter of its user's for, without Barman.

A start of Barman takes longer than all the rest. What comes is looked at: when it is no
WAL, Barman has to find out why.
"""

import binascii
import contextlib
import os
from typing import BinaryIO, Callable, Iterator, NamedTuple, Optional

from walbasin.gate import barman_archive, child, client
from walbasin.gate.barman_config import Config, UnknownFolders
from walbasin.wal import compression, segment

# Barman's options, the same from 2.12 to 3.19.1 but for the magic, which came later.
OPTIONS = ("compression", "custom_decompression_filter", "custom_compression_magic", "path_prefix")
CUSTOM = "custom"
# Bytes of a file that is decompressed in memory. Barman would write a larger one to its
# disk.
LARGEST = 64 * segment.MIB


class Filter(NamedTuple):
    """Hold a filter as Barman has it.

    command: of a shell. magic: what its files begin with, empty when Barman takes all
    files for its own that it does not know. path: folders that come before the PATH.
    """

    command: str
    magic: bytes
    path: str


class _TooLarge(Exception):
    """Report that more came than a file in memory should have."""


def find_filter(config: Config, server: str) -> Optional[Filter]:
    """Return the filter of a server, or None when only Barman knows."""
    try:
        kind, command, magic, path = barman_archive.find_values(config, server, *OPTIONS)
        if kind != CUSTOM or not command:
            return None
        return Filter(command, binascii.unhexlify(magic[len("0x") :]), path)
    except (UnknownFolders, binascii.Error):
        return None


@contextlib.contextmanager
def undo(found: Filter, name: str, descriptor: int, on_wait: Callable[[], None]) -> Iterator[Optional[BinaryIO]]:
    """Give what a filter makes of a file, or None when only Barman can undo it.

    descriptor: of the file. on_wait: called from time to time. Raises OSError when the
    client is gone.
    """
    with open(os.memfd_create("undone"), "w+b", buffering=0) as undone:
        is_undone = _is_undone(found, name, descriptor, undone, on_wait)
        undone.seek(0)
        yield undone if is_undone else None


def _is_undone(found: Filter, name: str, descriptor: int, undone: BinaryIO, on_wait: Callable[[], None]) -> bool:
    if os.pread(descriptor, len(found.magic), 0) != found.magic:
        return False

    def keep(data: bytes) -> None:
        if not data:
            on_wait()
        if undone.tell() + len(data) > LARGEST:
            raise _TooLarge
        undone.write(data)

    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        words = ["sh", "-c", found.command]
        status = child.relay(words, keep, stdin=descriptor, stderr=null, client=client.STDOUT, path=found.path)
    except (child.ProgramFailed, _TooLarge):
        return False
    finally:
        os.close(null)
    start = os.pread(undone.fileno(), compression.MAGIC_LENGTH, 0)
    return status == 0 and bool(start) and segment.may_be_plain(name, start)
