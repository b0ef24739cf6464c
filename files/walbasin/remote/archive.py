"""Barman's archive of one server, as a standby sees it: fetch, verified, and look ahead."""

import contextlib
from typing import BinaryIO, List, NamedTuple, Optional, Union

from walbasin.fetcher.call import Job
from walbasin.local.data_directory import Cluster
from walbasin.local.spool import Spool
from walbasin.local.whole_file import whole_file
from walbasin.remote import ssh
from walbasin.remote.ssh import Absent, Remote, Session, Sessions, Unreachable
from walbasin.wal import segment, window
from walbasin.wal.compression import Arrival, Sink
from walbasin.wal.getwal import Request


class Archive(NamedTuple):
    """`request` holds what is the same for all requests; `cluster` is whose WAL it must be, None if not known."""

    remote: Remote
    request: Request
    cluster: Optional[Cluster]

    def asking(self, name: str, **changes: object) -> Request:
        return self.request._replace(wal_name=name, **changes)  # type: ignore[arg-type]


def of(job: Job) -> Archive:
    """The archive that a call is about."""
    options = job.options
    remote = Remote(options.barman_host, options.user, options.port, options.ssh_config)
    request = Request(
        options.server_name,
        options.wal_name,
        config=options.config,
        compression=options.compression,
        keep_compression=options.keep_compression,
    )
    return Archive(remote, request, job.cluster)


def verify(name: str, sink: Union[Sink, Arrival], file: BinaryIO, cluster: Optional[Cluster]) -> None:
    """Raises segment.Invalid unless the sink's file is what its name says, and OSError from the disk."""
    sink.finish()
    if segment.is_history(name):
        file.seek(0)
        segment.history(name, file.read(segment.HISTORY_LIMIT + 1))
    else:
        segment.verify_segment(name, sink.header, sink.length, cluster.system_identifier if cluster else None)


class Answer:
    """What a session that was waited for ended with."""

    def __init__(self) -> None:
        self.has_come = False
        self.error: Optional[Exception] = None
        self.output = b""

    def end(self, error: Optional[Exception]) -> None:
        self.has_come, self.error = True, error

    def add(self, data: bytes) -> None:
        """Raises segment.Invalid when it is too much: the other side may not fill our memory."""
        self.output += data
        if len(self.output) > segment.HISTORY_LIMIT:
            raise segment.Invalid("a longer answer than there can be")

    def names(self) -> List[str]:
        """The segments that --peek lists."""
        return [word for word in self.output.decode("ascii", "replace").split() if segment.is_segment(word)]


def fetch(
    archive: Archive, name: str, destination: str, partial: bool = False, ahead: "Optional[Ahead]" = None
) -> None:
    """Put file `name` under `destination`, and what comes after it into the spool, when `ahead` says how.

    Raises Absent, Unreachable, segment.Invalid, and OSError when the destination cannot be written.
    """
    with Sessions() as sessions:
        with whole_file(destination) as file:
            answer, sink = Answer(), Sink(file)
            sessions.start(Session(archive.remote, archive.asking(name, partial=partial), sink.write, answer.end))
            if ahead is not None:
                ahead.start(sessions, archive, name)
            ssh.run(sessions, lambda: answer.has_come)
            if answer.error is not None:
                raise answer.error
            verify(name, sink, file, archive.cluster)
        ssh.run(sessions, lambda: False)


class Ahead:
    """Fills the spool with what comes after the requested segment, beside its fetch. Never raises: it can only help."""

    def __init__(self, spool: Spool, jobs: int, size: int) -> None:
        self.spool = spool
        self.jobs = jobs
        self.size = size
        self.troubles: List[str] = []
        self._queue: List[str] = []

    def start(self, sessions: Sessions, archive: Archive, requested: str) -> None:
        answer = Answer()

        def plan(_: Optional[Exception]) -> None:
            wanted = window.following(requested, self.jobs, self.size, {})
            self.spool.discard(set(self.spool.names()) - set(wanted))
            room = self.spool.room(self.size)
            self._queue = window.ahead(requested, answer.names(), self.spool.names(), self.jobs, room)
            for _each in range(ssh.MOST_CONNECTIONS - 1):
                self._next(sessions, archive)

        with contextlib.suppress(Unreachable):  # the requested file's own session tells
            peek = archive.asking(requested, peek=self.jobs, compression="", keep_compression=False)
            sessions.start(Session(archive.remote, peek, answer.add, plan))

    def _next(self, sessions: Sessions, archive: Archive) -> None:
        if not self._queue:
            return
        name = self._queue.pop(0)
        try:
            file = self.spool.begin(name)
        except OSError as error:
            self.troubles.append(f"spool: {error.strerror}")
            return
        sink = Sink(file)

        def end(error: Optional[Exception]) -> None:
            with file:
                try:
                    if error is not None:
                        raise error
                    verify(name, sink, file, archive.cluster)
                    self.spool.keep(name)
                except (Absent, Unreachable, segment.Invalid, OSError) as trouble:
                    self.spool.drop(name)
                    if not isinstance(trouble, Absent):
                        self.troubles.append(f"{name}: {trouble}")
            self._next(sessions, archive)

        try:
            sessions.start(Session(archive.remote, archive.asking(name), sink.write, end))
        except Unreachable as error:
            end(error)


def first_of(archive: Archive, names: List[str]) -> Optional[str]:
    """The first of these segments that the archive holds. Raises Unreachable."""
    answers = []
    with Sessions() as sessions:
        for name in names:
            answer = Answer()
            answers.append(answer)
            peek = archive.asking(name, peek=1, compression="", keep_compression=False)
            sessions.start(Session(archive.remote, peek, answer.add, answer.end))
        ssh.run(sessions, lambda: False)
    found = [name for answer in answers for name in answer.names()]
    if not found and any(answer.error for answer in answers):
        raise next(answer.error for answer in answers if answer.error)
    return min(found, default=None)


def switch_position(archive: Archive, name: str, size: int) -> int:
    """The segment in which the timeline of segment `name` branched off, counted in segments; 0 when it has no history.

    Before PostgreSQL 13 segments of its ancestors are asked for on the new timeline first, and its history
    may not be in pg_wal yet. Raises Unreachable, segment.Invalid.
    """
    history, answer = f"{segment.timeline(name):08X}.history", Answer()
    with Sessions() as sessions:
        request = archive.asking(history, compression="", keep_compression=False)
        sessions.start(Session(archive.remote, request, answer.add, answer.end))
        ssh.run(sessions, lambda: False)
    if isinstance(answer.error, Absent):
        return 0
    if answer.error is not None:
        raise answer.error
    return segment.history(history, answer.output)[-1][1] // size
