"""A Barman host without a gate: one connection, shared by a session for each file.

A Barman that is started takes ten times the CPU of the segment that it sends. So it is asked once where its WAL lies,
and segments are read there. They are verified like everything else, and whatever is not there, or not as it should be,
Barman itself is asked for.
"""

import contextlib
import shlex
from typing import Callable, NamedTuple, Optional, Protocol, Set

from walbasin.remote.archive import Answer, Archive
from walbasin.remote.ssh import Absent, Lost, Master, Question, Session, Sessions, Unreachable
from walbasin.wal import segment

# sshd allows ten sessions on a connection (MaxSessions).
MOST = 8
# The socket of the master, relative to the spool, which is our working directory: the path of a socket is short.
CONTROL = "ssh"

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


class Receiver(Protocol):
    """Who asked for file `name`. `end` is called with None when all has been written.

    `was_read`: it was read where it lies, not given by Barman.
    """

    name: str
    was_read: bool

    def write(self, data: bytes) -> None: ...

    def end(self, error: Optional[Exception]) -> None: ...


class StockHost:
    """The connection, and what is known of the host. `on_lost` is called with the cause when it cannot be reached."""

    def __init__(self, archive: Archive, jobs: int, sessions: Sessions, on_lost: Callable[[Exception], None]) -> None:
        self._archive = archive
        self._most = min(MOST, jobs)
        self._sessions = sessions
        self._on_lost = on_lost
        self._master: Optional[Master] = None
        # Where the WAL lies: None until it was asked, empty when it is Barman that has to be asked for everything.
        self._folder: Optional[str] = None
        self._not_in_folder: Set[str] = set()

    def is_ready(self) -> bool:
        """Sessions may start. If there is no connection, one is made."""
        if self._master is None:
            try:
                self._master = Master(self._archive.remote, CONTROL, self._lost)
            except Unreachable as error:
                self._lost(error)
                return False
            self._sessions.start(self._master)
        if self._master.is_ready() and self._folder is None:
            self._inquire()
        return self._master.is_ready()

    def _inquire(self) -> None:
        self._folder = ""
        request = self._archive.request
        if request.compression:  # on the wire, which is Barman's work
            return
        answer = Answer()

        def end(_error: Optional[Exception]) -> None:
            self._folder = folder_in(answer.output)

        with contextlib.suppress(Unreachable):
            self._ask(Inquiry(request.server, request.config), answer.add, end)

    def has_capacity(self, under_way: int) -> bool:
        """Another session may be started beside so many."""
        return under_way < self._most

    def request(self, receiver: Receiver) -> None:
        """Raises Unreachable."""
        name = receiver.name
        receiver.was_read = bool(self._folder) and segment.is_segment(name) and name not in self._not_in_folder
        self._not_in_folder.discard(name)
        question = Reading(self._folder or "", name) if receiver.was_read else self._archive.asking(name)
        self._ask(question, receiver.write, receiver.end)

    def _ask(
        self, question: Question, on_data: Callable[[bytes], None], on_end: Callable[[Optional[Exception]], None]
    ) -> None:
        self._sessions.start(Session(self._archive.remote, question, on_data, on_end, control=CONTROL))

    def has_another_way(self, receiver: Receiver, error: Exception) -> bool:
        """What failed so may succeed if it is asked for again."""
        if isinstance(error, Lost) or (isinstance(error, Unreachable) and error.is_connection):
            return True
        if receiver.was_read and isinstance(error, Absent):
            self._not_in_folder.add(receiver.name)
        elif receiver.was_read:
            self._folder = ""  # it is stored in a way that only Barman can undo
        return receiver.was_read

    def at_work(self) -> int:
        """How many connections there are."""
        return 1

    def _lost(self, cause: Exception) -> None:
        self._master = None
        self._on_lost(cause)

    def tick(self) -> None:
        """Nothing is to be done once in a while."""

    def is_waiting(self) -> bool:
        """The master's socket appears without a word, so somebody has to look."""
        return self._master is not None and not self._master.has_answered and not self._master.is_ready()
