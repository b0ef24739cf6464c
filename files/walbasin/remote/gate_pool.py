"""Keep the connections to one gate: one, and more where they help."""

import contextlib
import math
import time
from typing import Callable, List, NamedTuple, Sequence

from walbasin.local.debug import debug
from walbasin.remote.errors import ConnectionLost, FetchError, HostUnreachable, RemoteError
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import FetchHandler, GateConnection, NoGate
from walbasin.remote.ssh import MOST_CONNECTIONS, Remote
from walbasin.wal import protocol

# Requests on one connection: a segment that arrives, and the request for the next, so
# that no round trip is waited for.
PIPELINE = 2
# More connections are tried where a segment takes longer than SLOW seconds, and round
# trips make up more than SHARE of that: OpenSSH sends WINDOW bytes a round trip on each
# connection. They are kept unless a segment then takes SLOWED times as long as alone.
SLOW = 0.2
WINDOW = 2 << 20
SHARE = 0.6
SLOWED = 1.3
# A connection loses its work to others that bring something when it is silent for
# STALLED seconds, or has needed more for what comes at less than OUTPACED of their
# rate.
STALLED = 5.0
OUTPACED = 0.25


class SegmentTiming(NamedTuple):
    """Hold how fast a segment came.

    seconds: its time, while `connections` were at work. alone: the fewest seconds that
    a segment ever took with one connection. round_trip: seconds between a request and
    the first byte of its answer.
    """

    seconds: float
    connections: int
    alone: float
    round_trip: float


def tune_connections(now: int, most: int, timing: SegmentTiming, size: int) -> int:
    """Return how many connections to use instead of `now`: as many, or twice as many.

    size: of a segment, in bytes.
    """
    is_held_back = timing.seconds > SLOW and size / WINDOW * timing.round_trip > SHARE * timing.alone
    is_slowed = timing.seconds > SLOWED * timing.alone
    return min(2 * now, most) if is_held_back and not is_slowed and timing.connections >= now else now


class Progress(NamedTuple):
    """Hold how a connection does that has something to bring.

    silent: seconds without a byte, beside the connection that was heard last. seconds:
    since its file began. rate: its bytes a second since then. others: bytes a second
    that the others had for the files that they brought meanwhile.
    """

    silent: float
    seconds: float
    rate: float
    others: Sequence[float]


def is_stalled(progress: Progress) -> bool:
    """Return whether others would do a connection's work sooner."""
    if progress.silent > STALLED:
        return True
    return progress.seconds > STALLED and progress.rate < OUTPACED * min(progress.others, default=0.0)


class GatePool:
    """Spread requests over the connections to one gate.

    on_no_gate is called with the cause when there turns out to be no gate.
    """

    def __init__(
        self,
        remote: Remote,
        opening: protocol.Opening,
        jobs: int,
        loop: EventLoop,
        on_no_gate: Callable[[NoGate], None],
    ) -> None:
        self._remote = remote
        self._opening = opening
        self._jobs = jobs
        self._loop = loop
        self._on_no_gate = on_no_gate
        self._connections: List[GateConnection] = []
        self._wanted = 1
        self._alone = math.inf

    def is_ready(self) -> bool:
        """Return True: what cannot be sent yet waits in the connection."""
        return True

    def has_capacity(self, _in_flight: int) -> bool:
        """Return whether another request would not only wait.

        Where only Barman can decompress the archive, each of its calls computes for
        long, and sends little: as many run side by side as there may be.
        """
        if any(connection.needs_barman for connection in self._connections):
            self._wanted = min(MOST_CONNECTIONS, self._jobs)
        with contextlib.suppress(FetchError):  # those that are there go on
            while len(self._connections) < self._wanted:
                self._add()
        return any(len(connection) < self._depth() for connection in self._connections)

    def _depth(self) -> int:
        """Return how many requests to have on each connection.

        Keep it low: none shall wait on one while another is idle.
        """
        return max(1, min(PIPELINE, self._jobs // max(1, len(self._connections))))

    def request(self, handler: FetchHandler) -> None:
        """Ask for a file on the connection that is least busy. Raises FetchError."""
        if not self._connections:
            self._add()
        depth = self._depth()
        least_busy = min(self._connections, key=lambda one: (len(one) >= depth, not one.is_open, len(one)))
        least_busy.request(handler)

    def _add(self) -> None:
        connection = GateConnection(self._remote, self._opening, self._on_lost)
        self._connections.append(connection)
        self._loop.add(connection)

    def _on_lost(self, connection: GateConnection, cause: Exception) -> None:
        debug(f"the connection of ssh {connection.process.pid} to {self._remote.host} is lost: {cause}")
        self._connections.remove(connection)
        self._wanted = max(1, len(self._connections))  # until there is a reason for another
        if isinstance(cause, NoGate) and not self._connections:
            self._on_no_gate(cause)

    def has_another_way(self, _name: str, error: Exception) -> bool:
        """Return whether a request that failed so may succeed if it is made again."""
        if isinstance(error, HostUnreachable):
            return bool(self._connections)
        return isinstance(error, ConnectionLost)

    def on_stored(self, name: str) -> None:
        """Do nothing."""

    def busy_connections(self) -> int:
        """Return how many have something to bring."""
        return sum(connection.is_open and len(connection) > 0 for connection in self._connections)

    def tune(self, seconds: float, connections: int, size: int) -> None:
        """Open more connections if they would help.

        Call it with the time of a segment that PostgreSQL had to wait for, how many
        connections were at work, and its size in bytes.
        """
        if self._wanted == 1:
            self._alone = min(self._alone, seconds)
        round_trip = min((one.round_trip for one in self._connections), default=0.0)
        timing = SegmentTiming(seconds, connections, self._alone, round_trip)
        wanted = tune_connections(self._wanted, min(MOST_CONNECTIONS, self._jobs), timing, size)
        if wanted != self._wanted:
            debug(f"{wanted} connections instead of {self._wanted}: {timing}")
        self._wanted = wanted

    def tick(self) -> None:
        """End connections that have stalled. To be called once in a while."""
        for connection in [one for one in self._connections if len(one) and is_stalled(self._progress(one))]:
            self._loop.finish(connection, RemoteError(f"a connection to {self._remote.host} has stalled"))

    def _progress(self, connection: GateConnection) -> Progress:
        newest = max(one.last_sign for one in self._connections)
        seconds = time.monotonic() - connection.awaits_since
        others = [one.rate for one in self._connections if one.answered_at > connection.awaits_since]
        return Progress(newest - connection.last_sign, seconds, connection.arrived / max(seconds, 0.001), others)

    def ask_others(self) -> bool:
        """Return False: there are no others."""
        return False

    def must_be_polled(self) -> bool:
        """Return False: all that happens announces itself."""
        return False
