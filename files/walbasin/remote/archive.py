"""Fetch from Barman's archive of one server, and ask what it holds."""

import contextlib
import tempfile
from typing import BinaryIO, Callable, List, NamedTuple, Optional, Tuple, Union

from walbasin.local.data_directory import DataDirectory
from walbasin.local.promotion import Promotion
from walbasin.local.whole_file import whole_file
from walbasin.remote.errors import FetchError, GivenUp, NotInArchive
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.ssh import Remote, RemoteCommand, Session
from walbasin.wal import compression, protocol, segment
from walbasin.wal.compression import DecompressingWriter
from walbasin.wal.getwal import Request
from walbasin.wal.incoming_file import IncomingFile

# Seconds between two looks whether a file is still wanted.
STEP = 0.1


class Archive(NamedTuple):
    """Hold where the archive is, and whose WAL must come from it.

    request: what is the same for all requests. cluster: None if it is not known.
    promotion: as soon as it is asked for, nobody waits for an answer.
    gate_compression: see protocol.Opening; that of `request` is for Barman itself.
    rate_limit: bytes a second that all connections may bring; 0 for no limit.
    """

    remote: Remote
    request: Request
    cluster: Optional[DataDirectory]
    promotion: Promotion = Promotion()
    gate_compression: str = ""
    rate_limit: int = 0

    def request_for(self, name: str, **changes: object) -> Request:
        """Return the request for a file."""
        return self.request._replace(wal_name=name, **changes)  # type: ignore[arg-type]

    def peek_for(self, name: str, count: int) -> Request:
        """Return the request for the names of up to `count` segments from `name` on."""
        return self.request_for(name, peek=count, compression="", keep_compression=False)

    def opening(self) -> protocol.Opening:
        """Return what opens a connection to the gate."""
        accepts = compression.supported_compressions()
        return protocol.Opening(self.request.server, accepts, self.gate_compression, self.request.config)

    def longest(self, name: str) -> int:
        """Return the bytes that a file can have, not compressed, in this cluster."""
        return segment.longest_file(name, self.cluster.known_segment_size if self.cluster else None)

    def verify_header(self, name: str, header: bytes) -> int:
        """Return the size in a segment's header. Raises InvalidWal (see segment)."""
        identifier, size = self._expected()
        return segment.verify_header(name, header, identifier, size)

    def verify_segment(self, name: str, header: bytes, length: int) -> int:
        """Return the size of a segment. Raises InvalidWal (see segment)."""
        identifier, size = self._expected()
        return segment.verify_segment(name, header, length, identifier, size)

    def _expected(self) -> Tuple[Optional[int], Optional[int]]:
        if self.cluster is None:
            return None, None
        return self.cluster.system_identifier, self.cluster.known_segment_size


def verify(name: str, writer: Union[DecompressingWriter, IncomingFile], file: BinaryIO, archive: Archive) -> None:
    """Finish a file, and raise InvalidWal unless it is what its name says.

    writer: what has written `file`. Raises OSError from the disk.
    """
    writer.finish()
    if segment.is_history_name(name):
        file.seek(0)
        segment.parse_history(name, file.read(segment.HISTORY_LIMIT + 1))
    else:
        archive.verify_segment(name, writer.header, writer.length)


def _verify_beginning(name: str, writer: DecompressingWriter, archive: Archive) -> None:
    """Raise InvalidWal where the beginning of a refused file tells what it is.

    A login message before the segment makes it too long: that would not help anybody.
    """
    if segment.is_segment_name(name) and len(writer.header) >= segment.LONG_HEADER.size:
        archive.verify_header(name, writer.header)


class RemoteOutput:
    """Collect what a remote command prints, and how it ends."""

    def __init__(self, limit: int = segment.HISTORY_LIMIT) -> None:
        """limit: bytes that the output may have."""
        self.is_complete = False
        self._limit = limit
        self.error: Optional[Exception] = None
        self.content = bytearray()

    def end(self, error: Optional[Exception]) -> None:
        """Note that the command has ended."""
        self.is_complete, self.error = True, error

    def add(self, data: bytes) -> None:
        """Take the next bytes.

        Raises InvalidWal when it is too much: the other side may not fill our memory.
        """
        self.content += data
        if len(self.content) > self._limit:
            raise segment.InvalidWal("a longer answer than there can be")

    def names(self) -> List[str]:
        """Return the segments that --peek lists."""
        return [word for word in self.content.decode("ascii", "replace").split() if segment.is_segment_name(word)]


def fetch(
    archive: Archive,
    name: str,
    destination: str,
    *,
    partial: bool = False,
    beside: Optional[Callable[[EventLoop], None]] = None,
) -> None:
    """Put file `name` under `destination`.

    beside: starts what is to be done beside it on the same loop, and is waited for.
    Raises NotInArchive, FetchError, InvalidWal, and OSError when the destination cannot
    be written.
    """
    with EventLoop(archive.rate_limit) as loop:
        loop.urgent = lambda: (name,)
        with whole_file(destination) as file:
            output, writer = RemoteOutput(), DecompressingWriter(file, archive.longest(name))
            loop.add(Session(archive.remote, archive.request_for(name, partial=partial), writer.write, output.end))
            if beside is not None:
                beside(loop)
            try:
                wait_for(archive, output, loop)
            except segment.InvalidWal:
                _verify_beginning(name, writer, archive)
                raise
            verify(name, writer, file, archive)
        loop.run_until(lambda: False)


def wait_for(archive: Archive, output: RemoteOutput, loop: EventLoop) -> None:
    """Handle events until an output is complete. Raises what it has ended with.

    Raises GivenUp when a promotion is asked for and nothing comes: it replays all that
    the archive gives out, but waits for none.
    """

    def is_unwanted() -> bool:
        return loop.is_quiet() and archive.promotion.is_asked_for()

    loop.run_until(lambda: output.is_complete or is_unwanted(), STEP)
    if not output.is_complete:
        raise GivenUp
    if output.error is not None:
        raise output.error


def run(archive: Archive, command: RemoteCommand, limit: int = segment.HISTORY_LIMIT) -> bytes:
    """Return what a remote command prints, `limit` bytes at most.

    Raises NotInArchive, FetchError, InvalidWal.
    """
    output = RemoteOutput(limit)
    with EventLoop() as loop:
        loop.add(Session(archive.remote, command, output.add, output.end))
        wait_for(archive, output, loop)
    return bytes(output.content)


def fetch_history(archive: Archive, timeline: int) -> Optional[List[Tuple[int, int]]]:
    """Return the history of a timeline (see segment.parse_history), None without one.

    Raises FetchError, InvalidWal.
    """
    name = f"{timeline:08X}.history"
    try:
        return segment.parse_history(
            name, run(archive, archive.request_for(name, compression="", keep_compression=False))
        )
    except NotInArchive:
        return None


class _HeaderComplete(FetchError):
    """End a session: what has come is enough."""


def fetch_segment_size(archive: Archive, name: str, folder: Optional[str]) -> int:
    """Return the bytes that a held segment has, after its header was verified.

    So the archive proves that it is this cluster's. folder: for what has to be kept
    meanwhile. Raises NotInArchive, FetchError, InvalidWal, OSError.
    """
    with tempfile.TemporaryFile(dir=folder) as file, EventLoop() as loop:
        output, writer = RemoteOutput(), DecompressingWriter(file, archive.longest(name))

        def write(data: bytes) -> None:
            writer.write(data)
            if len(writer.header) >= segment.LONG_HEADER.size:
                raise _HeaderComplete

        try:
            loop.add(Session(archive.remote, archive.request_for(name), write, output.end))
            with contextlib.suppress(_HeaderComplete):
                wait_for(archive, output, loop)
                writer.finish()
        finally:
            writer.close()
        return archive.verify_header(name, writer.header)
