"""Fetch from a Barman host without a gate: a session for each file, on one connection.

Starting Barman takes ten times the CPU of the segment that it sends. So Barman is asked
once where its WAL lies, and segments are read there with `cat`. They are verified like
everything else. Whatever is not there, or not as it should be, Barman is asked for.
"""

import contextlib
import shlex
from typing import Callable, NamedTuple, Optional, Set

from walbasin.remote.archive import Archive, RemoteOutput
from walbasin.remote.errors import ConnectionLost, FetchError, HostUnreachable, NotInArchive
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import FetchHandler
from walbasin.remote.listing import ServerQuery, parse_server
from walbasin.remote.ssh import ControlMaster, RemoteCommand, Session
from walbasin.wal import segment

# sshd allows ten sessions on a connection (MaxSessions).
MOST = 8
# The socket of the master, relative to the spool, which is our working directory: the
# path of a socket must be short.
CONTROL = "ssh"


class ReadSegment(NamedTuple):
    """Read a segment as it is stored. folder: the wals_directory (listing.py)."""

    folder: str
    wal_name: str

    def command_line(self) -> str:
        return f"cat -- {shlex.quote(f'{self.folder}/{self.wal_name[:16]}/{self.wal_name}')}"

    def means_absent(self, status: int, _stderr: str) -> bool:
        return status == 1


class StockBarman:
    """Fetch through sessions on one connection, and remember what the host has.

    on_lost is called with the cause when the host cannot be reached. control: the name
    of the master's socket, one for each host.
    """

    def __init__(
        self,
        archive: Archive,
        jobs: int,
        loop: EventLoop,
        on_lost: Callable[[Exception], None],
        control: str = CONTROL,
    ) -> None:
        self._archive = archive
        self._most = min(MOST, jobs)
        self._loop = loop
        self._notify_lost = on_lost
        self._control = control
        self._master: Optional[ControlMaster] = None
        # Where the WAL lies: None until it was asked, empty when Barman has to be asked
        # for everything.
        self._folder: Optional[str] = None
        self._read_in_place: Set[str] = set()
        self._not_in_folder: Set[str] = set()

    def is_ready(self) -> bool:
        """Return whether sessions may start. If there is no connection, one is made."""
        if self._master is None:
            try:
                self._master = ControlMaster(self._archive.remote, self._control, self._on_lost)
            except FetchError as error:
                self._on_lost(error)
                return False
            self._loop.add(self._master)
        if self._master.is_ready() and self._folder is None:
            self._query_folder()
        return self._master.is_ready()

    def _query_folder(self) -> None:
        """Find out where the WAL lies, if that can be found out."""
        self._folder = ""
        request = self._archive.request
        if request.compression:  # on the wire, which is Barman's work
            return
        output = RemoteOutput()

        def on_end(_error: Optional[Exception]) -> None:
            self._folder = parse_server(bytes(output.content)).wals_directory

        with contextlib.suppress(FetchError):
            self._start(ServerQuery(request.server, request.config), output.add, on_end)

    def has_capacity(self, in_flight: int) -> bool:
        """Return whether another session may be started beside so many."""
        return in_flight < self._most

    def request(self, handler: FetchHandler) -> None:
        """Ask for a file. Raises FetchError."""
        name = handler.name
        command: RemoteCommand = self._archive.request_for(name)
        self._read_in_place.discard(name)
        if self._folder and segment.is_segment_name(name) and name not in self._not_in_folder:
            self._read_in_place.add(name)
            command = ReadSegment(self._folder, name)
        self._not_in_folder.discard(name)
        self._start(command, handler.write, handler.on_complete)

    def _start(
        self, command: RemoteCommand, on_data: Callable[[bytes], None], on_end: Callable[[Optional[Exception]], None]
    ) -> None:
        self._loop.add(Session(self._archive.remote, command, on_data, on_end, control=self._control))

    def has_another_way(self, name: str, error: Exception) -> bool:
        """Return whether a request that failed so may succeed if it is made again."""
        if isinstance(error, (ConnectionLost, HostUnreachable)):
            return True
        if name not in self._read_in_place:
            return False
        if isinstance(error, NotInArchive):
            self._not_in_folder.add(name)
        else:
            self._folder = ""  # it is stored in a way that only Barman can decompress
        return True

    def on_stored(self, name: str) -> None:
        """Do nothing."""

    def busy_connections(self) -> int:
        """Return how many connections there are."""
        return 1

    def tune(self, seconds: float, connections: int, size: int) -> None:
        """Do nothing: there is one connection only."""

    def tick(self) -> None:
        """Do nothing: ssh's own keepalive notices a dead host."""

    def _on_lost(self, cause: Exception) -> None:
        self._master = None
        self._notify_lost(cause)

    def ask_others(self) -> bool:
        """Return False: there are no others."""
        return False

    def must_be_polled(self) -> bool:
        """Return whether the master's socket is awaited: nothing announces it."""
        return self._master is not None and not self._master.has_answered and not self._master.is_ready()
