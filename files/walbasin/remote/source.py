"""Bring files from one Barman host: through its gate, or without one."""

from typing import Callable, List, Protocol, Union

from walbasin.local.debug import debug
from walbasin.remote.archive import Archive
from walbasin.remote.errors import OUTAGES, FetchError
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import FetchHandler, NoGate
from walbasin.remote.gate_pool import GatePool
from walbasin.remote.ssh import MOST_CONNECTIONS, Session
from walbasin.remote.stock_barman import StockBarman


class Source(Protocol):
    """Bring files: a GatePool, a StockBarman, or SeveralHosts."""

    def is_ready(self) -> bool:
        """Return whether requests may be made."""

    def has_capacity(self, in_flight: int) -> bool:
        """Return whether another request may be made beside so many."""

    def request(self, handler: FetchHandler) -> None:
        """Ask for a file. Raises FetchError."""

    def has_another_way(self, name: str, error: Exception) -> bool:
        """Return whether a request that failed so may succeed if it is made again."""

    def on_stored(self, name: str) -> None:
        """Note that a file was verified, and is kept."""

    def busy_connections(self) -> int:
        """Return how many connections have something to bring."""

    def tune(self, seconds: float, connections: int, size: int) -> None:
        """Learn from the time of a segment that PostgreSQL had to wait for."""

    def tick(self) -> None:
        """Do what has to be done once in a while."""

    def ask_others(self) -> bool:
        """Ask those hosts that were not asked, because a promotion waits.

        Return whether there were any.
        """

    def must_be_polled(self) -> bool:
        """Return whether something is awaited that does not announce itself."""


class GateOrStock:
    """Bring files through a host's gate; without one, as from stock Barman.

    on_no_gate is called with the cause when there turns out to be no gate. control: the
    name of a socket for a stock host's connection.
    """

    def __init__(
        self, archive: Archive, jobs: int, loop: EventLoop, on_no_gate: Callable[[NoGate], None], control: str
    ) -> None:
        self._archive = archive
        self._jobs = jobs
        self._loop = loop
        self._notify_no_gate = on_no_gate
        self._control = control
        # Requests that wait for the connection to a stock host.
        self._queue: List[FetchHandler] = []
        self._source: Union[GatePool, StockBarman] = GatePool(
            remote=archive.remote,
            opening=archive.opening(),
            jobs=jobs,
            loop=loop,
            on_no_gate=self._on_no_gate,
        )

    def _on_no_gate(self, cause: NoGate) -> None:
        debug(f"{cause}: stock Barman from now on")
        self._source = StockBarman(
            archive=self._archive,
            jobs=self._jobs,
            loop=self._loop,
            on_lost=self._on_lost,
            control=self._control,
        )
        self._notify_no_gate(cause)

    def _on_lost(self, cause: Exception) -> None:
        queue, self._queue = self._queue, []
        for handler in queue:
            handler.on_complete(cause)

    def is_ready(self) -> bool:
        """Return True: what cannot be asked yet waits here."""
        return True

    def has_capacity(self, in_flight: int) -> bool:
        """Return whether another request may be made beside so many."""
        return self._source.has_capacity(in_flight)

    def request(self, handler: FetchHandler) -> None:
        """Ask for a file. Raises FetchError."""
        self._queue.append(handler)
        self._ask()

    def _ask(self) -> None:
        if self._queue and self._source.is_ready():
            queue, self._queue = self._queue, []
            for handler in queue:
                try:
                    self._source.request(handler)
                except FetchError as error:
                    handler.on_complete(error)

    def has_another_way(self, name: str, error: Exception) -> bool:
        """Return whether a request that failed so may succeed if it is made again."""
        if isinstance(error, OUTAGES) and isinstance(self._source, StockBarman):
            return False  # another host is asked instead
        return self._source.has_another_way(name, error)

    def on_stored(self, name: str) -> None:
        """Do nothing."""

    def busy_connections(self) -> int:
        """Return how many connections have something to bring."""
        return self._source.busy_connections()

    def tune(self, seconds: float, connections: int, size: int) -> None:
        """Learn from the time of a segment that PostgreSQL had to wait for."""
        self._source.tune(seconds, connections, size)

    def tick(self) -> None:
        """Do what does not announce itself. To be called once in a while."""
        self._source.tick()
        self._ask()

    def ask_others(self) -> bool:
        """Return False: there are no others."""
        return False

    def must_be_polled(self) -> bool:
        """Return whether something is awaited that does not announce itself."""
        return self._source.must_be_polled()


class SingleSessions:
    """Bring files by `barman get-wal`, each in a session and connection of its own."""

    def __init__(self, archive: Archive, loop: EventLoop) -> None:
        self._archive = archive
        self._loop = loop

    def is_ready(self) -> bool:
        """Return True."""
        return True

    def has_capacity(self, in_flight: int) -> bool:
        """Return whether another session may be started beside so many."""
        return in_flight < MOST_CONNECTIONS

    def request(self, handler: FetchHandler) -> None:
        """Ask for a file. Raises FetchError."""
        request = self._archive.request_for(handler.name)
        self._loop.add(Session(self._archive.remote, request, handler.write, handler.on_complete))

    def has_another_way(self, _name: str, _error: Exception) -> bool:
        """Return False."""
        return False

    def on_stored(self, name: str) -> None:
        """Do nothing."""

    def busy_connections(self) -> int:
        """Return how many connections there are."""
        return len(self._loop)

    def tune(self, seconds: float, connections: int, size: int) -> None:
        """Do nothing: each file has its connection."""

    def tick(self) -> None:
        """Do nothing."""

    def ask_others(self) -> bool:
        """Return False: there are no others."""
        return False

    def must_be_polled(self) -> bool:
        """Return False: all that happens announces itself."""
        return False
