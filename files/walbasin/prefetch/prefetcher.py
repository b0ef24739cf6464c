"""The basin: keeps the next segments in the spool or on their way, while PostgreSQL replays.

One thread and no locks: everything happens in callbacks of `transport.Sessions`. Only what is compressed is undone
beside it, each file in a thread that has nothing else, so that arrivals do not wait for it.
"""

import os
import threading
import time
from collections import deque
from typing import BinaryIO, Callable, Deque, Dict, List, NamedTuple, Optional, Set, Tuple, Union

from walbasin import policy
from walbasin.local.spool import Spool
from walbasin.remote.archive import Archive, verify
from walbasin.remote.gate_connection import NoGate
from walbasin.remote.gate_pool import Lines
from walbasin.remote.ssh import Absent, Sessions, Unreachable
from walbasin.remote.stock_barman import StockHost
from walbasin.wal import compression, protocol, segment, window
from walbasin.wal.compression import Arrival

# How often a file may be tried another way before what it failed with is the answer.
TRIES = 2


class Answer(NamedTuple):
    """What became of a request: an outcome of policy, and its cause in words. `is_outage`: Barman was not reached."""

    outcome: str
    detail: str = ""
    is_outage: bool = False


Reply = Callable[[Answer], None]


def answer_for(error: Exception) -> Answer:
    """The answer to a request that came to `error`."""
    if isinstance(error, Absent):
        return Answer(policy.ABSENT)
    if isinstance(error, segment.Invalid):
        return Answer(policy.INVALID, str(error))
    if isinstance(error, Unreachable):
        return Answer(policy.UNKNOWN, str(error), error.is_connection)
    return Answer(policy.UNUSABLE, f"spool: {getattr(error, 'strerror', None) or error}")


class Flight:
    """A file on its way into the spool."""

    def __init__(self, basin: "Basin", name: str, file: BinaryIO) -> None:
        self.name = name
        self.file = file
        self.arrival = Arrival(file, lambda: basin.spool.aside(name))
        self.was_read = False
        # How many connections were at work when it began, and how long it took from then on, in seconds.
        self.used = 0
        self.seconds = 0.0
        self._basin = basin
        self._began = 0.0

    def begin(self) -> None:
        """Its first bytes are here."""
        self._began = time.monotonic()
        self.used = self._basin.source.at_work()
        self._basin.arriving()

    @property
    def arrives(self) -> bool:
        return self._began > 0

    def write(self, data: bytes) -> None:
        if not self.arrives:
            self.begin()
        self.arrival.write(data)

    def end(self, error: Optional[Exception]) -> None:
        """All of it is here, or it failed."""
        self.seconds = time.monotonic() - self._began if self.arrives else 0.0
        self._basin.landed(self, error)

    def close(self) -> None:
        self.arrival.close()
        self.file.close()


class Basin:
    """Fetches what is asked for, and what will be."""

    def __init__(self, spool: Spool, archive: Archive, jobs: int, size: int, sessions: Sessions) -> None:
        """jobs: segments on their way or in the spool, counting the requested one. size: of a segment, in bytes, as far
        as it is known before one has come.
        """
        self.spool = spool
        self.archive = archive
        self.jobs = jobs
        self.size = size
        self.sessions = sessions
        request = archive.request
        opening = protocol.Opening(request.server, compression.accepted(), request.compression, request.config)
        self.source: Union[Lines, StockHost] = Lines(archive.remote, opening, jobs, sessions, self._no_gate)
        self._notice = ""
        self._replies: Dict[str, List[Reply]] = {}
        self._flights: Dict[str, Flight] = {}
        self._absent: Set[str] = set()
        self._tried: Dict[str, int] = {}
        self._position = ""
        self._kept = set(spool.names())
        self._starts: Dict[int, int] = {}
        self._trusted = 0
        self._undone: Deque[Tuple[Flight, Optional[Exception]]] = deque()
        self._bell, self._rope = os.pipe()
        sessions.watch(self._bell, self._hear)

    def _no_gate(self, cause: NoGate) -> None:
        self.source = StockHost(self.archive, self.jobs, self.sessions, self._lost)
        self._notice = f"{cause}: fetching without it, which is slower"

    def _lost(self, cause: Exception) -> None:
        """There is no way to the host, so what is not on its way will not come."""
        for name in self._not_under_way():
            self._answer(name, answer_for(cause))

    # What PostgreSQL does.

    def ask(self, name: str, reply: Reply) -> None:
        """A file is needed now. `reply` is called once: when it is in the spool, or it is known why it is not."""
        self._absent.clear()
        self._replies.setdefault(name, []).append(reply)
        if name in self.spool.names():
            self._answer(name, Answer(policy.DELIVERED))
        self.pump()

    def follow(self) -> List[str]:
        """What has gone from the spool was taken: PostgreSQL replays it. Returns what is still there.

        A hit is told of by the bell, but a moment later; to fetch it again meanwhile would be a waste.
        """
        spooled = set(self.spool.names())
        gone = self._kept - spooled
        if gone:
            self._position = max(gone)
            self._absent.clear()
            wanted = window.following(self._position, self.jobs, self.size, self._starts)
            self.spool.discard(spooled - set(wanted))
            spooled &= set(wanted)
        self._kept = spooled
        return sorted(spooled)

    # What is fetched.

    def pump(self) -> None:
        """Send as many requests as there are reason, and room, for."""
        if not self.source.is_ready():
            return
        for name in self._not_under_way():
            self._fetch(name)
        for name in self._speculative():
            if not self.source.has_capacity(len(self._flights)) or not self._fetch(name):
                break

    def _not_under_way(self) -> List[str]:
        return [name for name in self._replies if name not in self._flights]

    def _speculative(self) -> List[str]:
        spooled = self.follow()
        requested = next(filter(segment.is_segment, self._replies), "")
        if not requested and not self._position:
            return []
        jobs = self.jobs - 1 if requested else self.jobs
        wanted = window.following(requested or self._position, jobs, self.size, self._starts)
        under_way = {name: flight.arrives for name, flight in self._flights.items()}
        names = window.next_to_fetch(wanted, self._absent, spooled, under_way, self._trusted)
        return names[: max(0, self.spool.room(self.size) - len(under_way))] if names else []

    def _fetch(self, name: str) -> bool:
        """Have it on its way. False when that cannot be."""
        try:
            file = self.spool.begin(name)
        except OSError as error:
            self._answer(name, answer_for(error))
            return False
        flight = Flight(self, name, file)
        self._flights[name] = flight
        try:
            self.source.request(flight)
        except Unreachable as error:
            flight.end(error)
            return False
        return True

    def arriving(self) -> None:
        """The archive has what was asked for."""
        self._trusted += 1
        self.pump()

    def landed(self, flight: Flight, error: Optional[Exception]) -> None:
        """All of it is here, or it failed."""
        if error is None and flight.arrival.is_compressed:
            threading.Thread(target=self._undo, args=(flight,), daemon=True).start()
        else:
            self._settle(flight, error or self._trouble_with(flight))

    def _undo(self, flight: Flight) -> None:
        """In a thread of its own."""
        self._undone.append((flight, self._trouble_with(flight)))
        os.write(self._rope, b"\0")

    def _hear(self) -> None:
        os.read(self._bell, 4096)
        while self._undone:
            self._settle(*self._undone.popleft())

    def _trouble_with(self, flight: Flight) -> Optional[Exception]:
        """Why it is not what its name says, if it is not."""
        try:
            verify(flight.name, flight.arrival, flight.file, self.archive.cluster)
        except Exception as error:  # whatever it is, somebody waits for an answer
            return error
        return None

    def _settle(self, flight: Flight, error: Optional[Exception]) -> None:
        """Put it into the spool, and answer; or find another way for it."""
        name = flight.name
        del self._flights[name]
        try:
            if error is None:
                self._weigh(flight)
                self.spool.keep(name)
                self._learn(flight)
        except (segment.Invalid, OSError) as trouble:
            error = trouble
        flight.close()
        if error is None:
            self._tried.pop(name, None)
            self._answer(name, Answer(policy.DELIVERED))
        else:
            self.spool.drop(name)
            self._failed(flight, error)
        self.pump()

    def _weigh(self, flight: Flight) -> None:
        """While PostgreSQL need not wait, there are connections enough."""
        if isinstance(self.source, Lines) and segment.is_segment(flight.name) and not self._has_next():
            self.source.weigh(flight.seconds, flight.used, self.size)

    def _has_next(self) -> bool:
        """What PostgreSQL wants next is in the spool."""
        following = window.following(self._position, 1, self.size, self._starts) if self._position else []
        return bool(set(following) & set(self.spool.names()))

    def _failed(self, flight: Flight, error: Exception) -> None:
        name = flight.name
        self._tried[name] = self._tried.get(name, 0) + 1
        if self.source.has_another_way(flight, error) and self._tried[name] <= TRIES:
            return  # the next pump finds it
        del self._tried[name]
        self._absent.add(name)
        self._trusted = 0
        self._answer(name, answer_for(error))

    def _answer(self, name: str, answer: Answer) -> None:
        replies = self._replies.pop(name, [])
        if replies and answer.outcome == policy.DELIVERED:
            answer, self._notice = answer._replace(detail=self._notice), ""
            if segment.is_segment(name):
                self._position = name
        for reply in replies:
            reply(answer)

    def _learn(self, flight: Flight) -> None:
        """What a verified file says of those that follow it."""
        if segment.is_history(flight.name):
            flight.file.seek(0)
            history = segment.history(flight.name, flight.file.read())
            self._starts = window.beginnings(flight.name, history, self.size)
        elif segment.is_segment(flight.name):
            self.size = flight.arrival.length
            self._kept.add(flight.name)

    def tick(self) -> None:
        """To be called once in a while: what does not announce itself."""
        self.source.tick()
        if self._replies:
            self.pump()

    def has_work(self) -> bool:
        """Something is on its way."""
        return bool(self._flights or self._replies)
