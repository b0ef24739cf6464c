"""The connections to the gate: one, and more where they help."""

import contextlib
import math
import time
from typing import Callable, List, NamedTuple, Sequence

from walbasin.remote.gate_connection import Gateway, NoGate, Receiver
from walbasin.remote.ssh import MOST_CONNECTIONS, Lost, Remote, Sessions, Unreachable
from walbasin.wal import protocol

# Of one connection: a segment that arrives, and the request for the next, so that no round trip is waited for.
PIPELINE = 2
# Seconds for a segment. What takes longer may be held back by the window that OpenSSH gives each connection, of so many
# bytes in a round trip. That is so when the round trips make up this share of the time. Then further connections help,
# until they slow down each other.
SLOW = 0.2
WINDOW = 2 << 20
SHARE = 0.6
SLOWED = 1.3
# While others bring something, a connection loses its work to them that is silent for so many seconds, or has needed
# more than that for what comes at less than this share of their rate.
STALLED = 5.0
OUTPACED = 0.25


class Pace(NamedTuple):
    """How a segment came: in `seconds`, while `used` connections were at work. The fewest seconds it ever took with one
    are `alone`; `round_trip` seconds are between a request and the first word of its answer.
    """

    seconds: float
    used: int
    alone: float
    round_trip: float


def lines_to_use(now: int, most: int, pace: Pace, size: int) -> int:
    """How many connections to use instead of `now`, for segments of `size` bytes: no more, or twice as many."""
    is_held_back = pace.seconds > SLOW and size / WINDOW * pace.round_trip > SHARE * pace.alone
    is_slowed = pace.seconds > SLOWED * pace.alone
    return min(2 * now, most) if is_held_back and not is_slowed and pace.used >= now else now


class Progress(NamedTuple):
    """Of a connection that has something to bring: seconds without a byte (beside the one that was last heard), seconds
    since it began, its bytes a second since then, and what the others had for the files that they brought meanwhile.
    """

    silent: float
    took: float
    rate: float
    others: Sequence[float]


def is_stalled(progress: Progress) -> bool:
    """Others would do its work sooner."""
    if progress.silent > STALLED:
        return True
    return progress.took > STALLED and progress.rate < OUTPACED * min(progress.others, default=0.0)


class Lines:
    """All connections to one gate. `on_no_gate` is called with the cause when there turns out to be none."""

    def __init__(
        self,
        remote: Remote,
        opening: protocol.Opening,
        jobs: int,
        sessions: Sessions,
        on_no_gate: Callable[[NoGate], None],
    ) -> None:
        self._remote = remote
        self._opening = opening
        self._jobs = jobs
        self._sessions = sessions
        self._on_no_gate = on_no_gate
        self._lines: List[Gateway] = []
        self._to_use = 1
        self._alone = math.inf

    def is_ready(self) -> bool:
        """Requests may be made: what cannot be sent yet waits in the connection."""
        return True

    def has_capacity(self, _under_way: int) -> bool:
        """Another request would not only wait."""
        with contextlib.suppress(Unreachable):  # those that are there go on
            while len(self._lines) < self._to_use:
                self._add()
        return any(len(line) < self._depth() for line in self._lines)

    def _depth(self) -> int:
        """How many requests to have on each connection. None shall wait on one while another is idle."""
        return max(1, min(PIPELINE, self._jobs // max(1, len(self._lines))))

    def request(self, receiver: Receiver) -> None:
        """Raises Unreachable."""
        if not self._lines:
            self._add()
        line = min(self._lines, key=lambda line: (len(line) >= self._depth(), not line.is_open, len(line)))
        line.request(receiver)

    def _add(self) -> None:
        line = Gateway(self._remote, self._opening, self._lost)
        self._lines.append(line)
        self._sessions.start(line)

    def _lost(self, line: Gateway, cause: Exception) -> None:
        self._lines.remove(line)
        self._to_use = max(1, len(self._lines))  # until there is a reason for another
        if isinstance(cause, NoGate) and not self._lines:
            self._on_no_gate(cause)

    def has_another_way(self, _receiver: Receiver, error: Exception) -> bool:
        """What failed so may succeed if it is asked for again."""
        return isinstance(error, Lost) and (bool(self._lines) or not error.is_connection)

    def at_work(self) -> int:
        """How many have something to bring."""
        return sum(line.is_open and len(line) > 0 for line in self._lines)

    def weigh(self, seconds: float, used: int, size: int) -> None:
        """Whether more would help, after a segment of `size` bytes that PostgreSQL had to wait for."""
        if self._to_use == 1:
            self._alone = min(self._alone, seconds)
        round_trip = min((line.round_trip for line in self._lines), default=0.0)
        pace = Pace(seconds, used, self._alone, round_trip)
        self._to_use = lines_to_use(self._to_use, min(MOST_CONNECTIONS, self._jobs), pace, size)

    def tick(self) -> None:
        """To be called once in a while: what does not announce itself."""
        for line in [one for one in self._lines if len(one) and is_stalled(self._progress(one))]:
            self._sessions.give_up(line, Unreachable(f"a connection to {self._remote.host} has stalled"))

    def _progress(self, line: Gateway) -> Progress:
        newest = max(one.heard_at for one in self._lines)
        took = time.monotonic() - line.awaits_since
        others = [one.rate for one in self._lines if one.answered_at > line.awaits_since]
        return Progress(newest - line.heard_at, took, line.arrived / max(took, 0.001), others)

    def is_waiting(self) -> bool:
        """Somebody has to look whether it is ready."""
        return False
