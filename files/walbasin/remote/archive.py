"""Fetch from Barman's archive of one server, and ask what it holds."""

from typing import BinaryIO, Callable, List, NamedTuple, Optional, Union

from walbasin.local.data_directory import DataDirectory
from walbasin.local.whole_file import whole_file
from walbasin.remote.errors import NotInArchive
from walbasin.remote.ssh import EventLoop, Remote, Session
from walbasin.wal import segment
from walbasin.wal.compression import DecompressingWriter, IncomingFile
from walbasin.wal.getwal import Request


class Archive(NamedTuple):
    """Hold where the archive is, and whose WAL must come from it.

    request: what is the same for all requests. cluster: None if it is not known.
    """

    remote: Remote
    request: Request
    cluster: Optional[DataDirectory]

    def request_for(self, name: str, **changes: object) -> Request:
        """Return the request for a file."""
        return self.request._replace(wal_name=name, **changes)  # type: ignore[arg-type]

    def peek_for(self, name: str, count: int) -> Request:
        """Return the request for the names of up to `count` segments from `name` on."""
        return self.request_for(name, peek=count, compression="", keep_compression=False)


def verify(
    name: str,
    writer: Union[DecompressingWriter, IncomingFile],
    file: BinaryIO,
    cluster: Optional[DataDirectory],
) -> None:
    """Finish a file, and raise InvalidWal unless it is what its name says.

    writer: what has written `file`. Raises OSError from the disk.
    """
    writer.finish()
    if segment.is_history_name(name):
        file.seek(0)
        segment.parse_history(name, file.read(segment.HISTORY_LIMIT + 1))
    else:
        segment.verify_segment(name, writer.header, writer.length, cluster.system_identifier if cluster else None)


class RemoteOutput:
    """Collect what a remote command prints, and how it ends."""

    def __init__(self) -> None:
        self.is_complete = False
        self.error: Optional[Exception] = None
        self.content = b""

    def end(self, error: Optional[Exception]) -> None:
        """Note that the command has ended."""
        self.is_complete, self.error = True, error

    def add(self, data: bytes) -> None:
        """Take the next bytes.

        Raises InvalidWal when it is too much: the other side may not fill our memory.
        """
        self.content += data
        if len(self.content) > segment.HISTORY_LIMIT:
            raise segment.InvalidWal("a longer answer than there can be")

    def names(self) -> List[str]:
        """Return the segments that --peek lists."""
        return [word for word in self.content.decode("ascii", "replace").split() if segment.is_segment_name(word)]


def fetch(
    archive: Archive,
    name: str,
    destination: str,
    partial: bool = False,
    beside: Optional[Callable[[EventLoop], None]] = None,
) -> None:
    """Put file `name` under `destination`.

    beside: starts what is to be done beside it on the same loop, and is waited for.
    Raises NotInArchive, FetchError, InvalidWal, and OSError when the destination cannot
    be written.
    """
    with EventLoop() as loop:
        with whole_file(destination) as file:
            output, writer = RemoteOutput(), DecompressingWriter(file)
            loop.add(Session(archive.remote, archive.request_for(name, partial=partial), writer.write, output.end))
            if beside is not None:
                beside(loop)
            loop.run_until(lambda: output.is_complete)
            if output.error is not None:
                raise output.error
            verify(name, writer, file, archive.cluster)
        loop.run_until(lambda: False)


def first_held(archive: Archive, names: List[str]) -> Optional[str]:
    """Return the first of these segments that the archive holds, or None.

    Raises FetchError.
    """
    outputs = []
    with EventLoop() as loop:
        for name in names:
            output = RemoteOutput()
            outputs.append(output)
            loop.add(Session(archive.remote, archive.peek_for(name, 1), output.add, output.end))
        loop.run_until(lambda: False)
    found = [name for output in outputs for name in output.names()]
    if not found and any(output.error for output in outputs):
        raise next(output.error for output in outputs if output.error)
    return min(found, default=None)


def switch_segment(archive: Archive, name: str, size: int) -> int:
    """Return the number of the segment in which the timeline of segment `name` began.

    0 when the archive has no history of it. Ask the archive: before PostgreSQL 13
    segments of a timeline's ancestors are asked for on the new timeline first, and its
    history may not be in pg_wal yet. Raises FetchError, InvalidWal.
    """
    history, output = f"{segment.timeline(name):08X}.history", RemoteOutput()
    with EventLoop() as loop:
        request = archive.request_for(history, compression="", keep_compression=False)
        loop.add(Session(archive.remote, request, output.add, output.end))
        loop.run_until(lambda: False)
    if isinstance(output.error, NotInArchive):
        return 0
    if output.error is not None:
        raise output.error
    return segment.parse_history(history, output.content)[-1][1] // size
