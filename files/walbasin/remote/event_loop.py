"""Wait for several connections to the Barman hosts side by side."""

import contextlib
import math
import selectors
import time
from typing import Callable, Container, Dict, List, Optional, Set, Tuple

from walbasin.remote.errors import FetchError
from walbasin.remote.rate_limit import RateLimit
from walbasin.remote.ssh import PIPE_SIZE, SILENCE_LIMIT, Connection, Remote
from walbasin.wal import pipe, segment


class EventLoop:
    """Wait for all connections of a process, and for whatever else is readable.

    Leaving the block ends what is still there.
    """

    def __init__(self, rate_limit: int = 0) -> None:
        """rate_limit: bytes a second of all connections together; 0 for no limit."""
        # Gives the files that are waited for: under a limit they go first.
        self.urgent: Callable[[], Container[str]] = tuple
        self._selector = selectors.DefaultSelector()
        self._open: Dict[Connection, Set[int]] = {}
        self._rate_limit = RateLimit(rate_limit) if rate_limit else None
        # Connections that are not read until the limit allows it, and since when.
        self._paused: Dict[Connection, float] = {}
        # Seconds in which the bytes of a file gather in the pipes, as ssh writes 32 KiB
        # at a time: 0 where none come, or where a pipe is too small.
        self._pause = 0.0

    def __enter__(self) -> "EventLoop":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in list(self._open):
            self.abort(connection)
        self._selector.close()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Wait for a connection as well."""
        connection.rate_limit = self._rate_limit
        self._open[connection] = set(connection.descriptors)
        for descriptor in connection.descriptors:
            self._selector.register(descriptor, selectors.EVENT_READ, connection)

    def add_reader(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call back whenever there is something to read."""
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def remove_reader(self, descriptor: int) -> None:
        """Undo add_reader."""
        self._selector.unregister(descriptor)

    def run_once(self, limit: float = SILENCE_LIMIT) -> None:
        """Wait for the next event, `limit` seconds at most, and handle it."""
        if self._pause:
            time.sleep(self._pause)
        wait = limit if self._rate_limit is None else min(limit, self._pause_or_resume(self._rate_limit))
        awaited = self._open if not self._paused else [one for one in self._open if one not in self._paused]
        nearest = min((connection.deadline for connection in awaited), default=math.inf) - time.monotonic()
        for key, _ in self._in_order(self._selector.select(max(0.0, min(nearest, wait)))):
            if not isinstance(key.data, Connection):
                key.data()
            elif key.data in self._open:
                self._receive(key.data, key.fd)
        self._pause = self._next_pause()
        for connection in [one for one in self._open if one.deadline <= time.monotonic() and one not in self._paused]:
            self.finish(connection, connection.timeout_error())

    def _next_pause(self) -> float:
        brought = {connection: connection.take_brought() for connection in self._open}
        most = max(brought.values(), default=0)
        if not most or not all(connection.has_large_pipe for connection, count in brought.items() if count):
            return 0.0
        return pipe.next_pause(self._pause or pipe.SHORTEST, most, PIPE_SIZE)

    def _pause_or_resume(self, rate_limit: RateLimit) -> float:
        """Read from connections while the limit allows it.

        Returns the seconds until it will, infinity where it does.
        """
        wait, now = rate_limit.refill(), time.monotonic()
        if wait > 0:
            for connection in [one for one in self._open if one not in self._paused]:
                self._paused[connection] = now
                with contextlib.suppress(KeyError):  # that pipe has ended
                    self._selector.unregister(connection.stdout)
            return wait
        paused, self._paused = self._paused, {}
        for connection, since in paused.items():
            connection.resume(now - since)
            if connection.stdout in self._open[connection]:
                self._selector.register(connection.stdout, selectors.EVENT_READ, connection)
        return math.inf

    def _in_order(self, events: List[Tuple[selectors.SelectorKey, int]]) -> List[Tuple[selectors.SelectorKey, int]]:
        """Return what can be read, in the order in which it is needed, under a limit.

        What is waited for comes first, then what PostgreSQL will ask for next.
        """
        if self._rate_limit is None:
            return events
        urgent = self.urgent()

        def rank(event: Tuple[selectors.SelectorKey, int]) -> Tuple[bool, str]:
            data = event[0].data
            names = data.names() if isinstance(data, Connection) else []
            return bool(names) and not any(name in urgent for name in names), min(names, default="")

        return sorted(events, key=rank)

    def run_until(self, is_done: Callable[[], bool], step: float = SILENCE_LIMIT) -> None:
        """Handle events until it is done, or until no connection is left.

        step: seconds between two looks, at most.
        """
        while self._open and not is_done():
            self.run_once(step)

    def _receive(self, connection: Connection, descriptor: int) -> None:
        try:
            is_open = connection.receive(descriptor)
        except (FetchError, segment.InvalidWal, OSError) as error:
            self.finish(connection, error)
            return
        if not is_open and connection in self._open:
            self._selector.unregister(descriptor)
            self._open[connection].discard(descriptor)
            if not self._open[connection]:
                self.finish(connection, connection.result())

    def finish(self, connection: Connection, error: Optional[Exception]) -> None:
        """End a connection, and tell it what went wrong, if anything did."""
        self.abort(connection)
        connection.end(error)

    def is_quiet(self) -> bool:
        """Return whether none of the connections brings anything."""
        return all(connection.is_quiet() for connection in self._open)

    def connections_to(self, remote: Remote) -> List[Connection]:
        """Return the connections to one host."""
        return [connection for connection in self._open if connection.remote == remote]

    def finish_all(self, error: Exception) -> None:
        """End all connections, and tell each of them why."""
        for connection in list(self._open):
            if connection in self._open:  # not ended with another one
                self.finish(connection, error)

    def abort(self, connection: Connection) -> None:
        """End a connection without telling it."""
        self._paused.pop(connection, None)
        for descriptor in self._open.pop(connection):
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)
        connection.close()
