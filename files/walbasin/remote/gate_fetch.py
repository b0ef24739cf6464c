"""Fetch one file over a connection to the gate, as the prefetch process does."""

import tempfile
from typing import Optional

from walbasin.local.whole_file import whole_file
from walbasin.remote.archive import Archive, verify
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import GateConnection
from walbasin.wal.incoming_file import IncomingFile


class SingleFetch:
    """Receive one file (a FetchHandler), and keep what went wrong first."""

    def __init__(self, name: str, incoming: IncomingFile) -> None:
        self.name = name
        self.incoming = incoming
        self.is_complete = False
        self.error: Optional[Exception] = None

    def on_found(self) -> None:
        """Do nothing, as on_first_byte."""

    def on_first_byte(self) -> None:
        """Do nothing: nothing else waits for it."""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises InvalidWal, OSError."""
        self.incoming.write(data)

    def on_complete(self, error: Optional[Exception]) -> None:
        """Note that all of it is here, or what went wrong."""
        self.error = self.error or error
        self.is_complete = True


def fetch(archive: Archive, name: str, destination: str, folder: Optional[str]) -> None:
    """Put file `name` under `destination`.

    folder: for what has to be kept meanwhile. Raises NoGate, NotInArchive, FetchError,
    InvalidWal, OSError.
    """
    with EventLoop(archive.rate_limit) as loop, whole_file(destination) as file:
        incoming = IncomingFile(file, lambda: tempfile.TemporaryFile(dir=folder), archive.longest(name))  # noqa: SIM115
        single = SingleFetch(name, incoming)
        try:
            connection = GateConnection(archive.remote, archive.opening(), lambda _, cause: single.on_complete(cause))
            loop.add(connection)
            connection.request(single)
            loop.run_until(lambda: single.is_complete)
            if single.error is not None:
                raise single.error
            verify(name, incoming, file, archive)
        finally:
            incoming.close()
