"""The basin: keeps the next segments in the spool or on their way, while PostgreSQL replays.

One thread and no locks: everything happens in callbacks of `transport.Sessions`. Only what is compressed is undone
beside it, each file in a thread that has nothing else, so that arrivals do not wait for it.
"""

import contextlib
import math
import os
import threading
import time
from collections import deque
from typing import BinaryIO, Callable, Deque, Dict, List, NamedTuple, Optional, Set, Tuple

from walbasin import codec, policy, segment, stock, window, wire
from walbasin.archive import Answer as Output
from walbasin.archive import Archive, verify
from walbasin.codec import Arrival
from walbasin.gateway import Gateway, Lost, NoGate
from walbasin.spool import Spool
from walbasin.transport import Absent, Master, Question, Session, Sessions, Unreachable

# sshd drops connections at random from the eleventh unauthenticated one on (MaxStartups 10:30:100), and allows
# ten sessions on one (MaxSessions).
CONNECTIONS = 8
# Of one connection: a segment that arrives, and the request for the next, so that no round trip is waited for.
PIPELINE = 2
# Seconds for a segment. What takes longer may be held back by the window that OpenSSH gives each connection, of so many
# bytes in a round trip. That is so when the round trips make up this share of the time. Then further connections help,
# until they slow down each other.
SLOW = 0.2
WINDOW = 2 << 20
SHARE = 0.6
SLOWED = 1.3
# While others bring something, a connection that is silent for so many seconds loses its work to them.
STALLED = 5.0
# How often a file may be lost with its connection before that is the answer.
LOSSES = 2
# The socket of the master, relative to the spool, which is our working directory: the path of a socket is short.
CONTROL = "ssh"


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


class Flight:
    """A file on its way into the spool."""

    def __init__(self, basin: "Basin", name: str, file: BinaryIO) -> None:
        self.name = name
        self.file = file
        self.arrival = Arrival(file, lambda: basin.spool.aside(name))
        self.line: Optional[Gateway] = None
        self.question: Optional[Question] = None
        # How many connections were at work when it began, and how long it took from then on, in seconds.
        self.used = 0
        self.seconds = 0.0
        self._basin = basin
        self._began = 0.0

    def begin(self) -> None:
        """Its first bytes are here."""
        self._began = time.monotonic()
        self.used = self._basin.lines_at_work()
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
        """jobs: segments on their way or in the spool, counting the requested one. size: of a segment, in bytes."""
        self.spool = spool
        self.archive = archive
        self.jobs = jobs
        self.size = size
        self.sessions = sessions
        self.is_stock = False
        self._replies: Dict[str, List[Reply]] = {}
        self._flights: Dict[str, Flight] = {}
        self._absent: Set[str] = set()
        self._losses: Dict[str, int] = {}
        self._position = ""
        self._kept = set(spool.names())
        self._starts: Dict[int, int] = {}
        self._trusted = 0
        self._lines: List[Gateway] = []
        self._notice = ""
        self._lines_to_use = 1
        self._alone = math.inf
        self._master: Optional[Master] = None
        # Of a stock host: the folder of the server's WAL, None until it was asked for, and what is not in there.
        self._folder: Optional[str] = None
        self._elsewhere: Set[str] = set()
        self._undone: Deque[Tuple[Flight, Optional[Exception]]] = deque()
        self._bell, self._rope = os.pipe()
        sessions.watch(self._bell, self._hear)

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
        if self.is_stock and not self._has_master():
            return
        for name in [one for one in self._replies if one not in self._flights]:
            self._fetch(name)
        for name in self._speculative():
            if not self._has_capacity() or not self._fetch(name):
                break

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

    def _has_capacity(self) -> bool:
        most = min(CONNECTIONS, self.jobs)
        if self.is_stock:
            return len(self._flights) < most
        with contextlib.suppress(Unreachable):  # those that are there go on
            while len(self._lines) < self._lines_to_use:
                self._add_line()
        return any(len(line) < self._depth() for line in self._lines)

    def _depth(self) -> int:
        """How many requests to have on each connection. None shall wait on one while another is idle."""
        return max(1, min(PIPELINE, self.jobs // max(1, len(self._lines))))

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
            if self.is_stock:
                flight.question = self._question(name)
                self._ask_stock(flight.question, flight.write, flight.end)
            else:
                flight.line = self._line()
                flight.line.request(flight)
        except Unreachable as error:
            flight.end(error)
            return False
        return True

    def _line(self) -> Gateway:
        """The connection to ask next. Raises Unreachable."""
        if not self._lines:
            self._add_line()
        return min(self._lines, key=lambda line: (len(line) >= self._depth(), not line.is_open, len(line)))

    def lines_at_work(self) -> int:
        """How many connections have something to bring."""
        return sum(line.is_open and len(line) > 0 for line in self._lines)

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
                self._learn(name, flight.file)
                self.spool.keep(name)
                self._kept |= {name} if segment.is_segment(name) else set()
        except (segment.Invalid, OSError) as trouble:
            error = trouble
        flight.close()
        if error is None:
            self._losses.pop(name, None)
            self._elsewhere.discard(name)
            self._answer(name, Answer(policy.DELIVERED))
        else:
            self.spool.drop(name)
            self._failed(flight, error)
        self.pump()

    def _weigh(self, flight: Flight) -> None:
        """Whether more connections would help. While PostgreSQL need not wait, there are enough."""
        if self._has_next() or not segment.is_segment(flight.name):
            return
        if self._lines_to_use == 1:
            self._alone = min(self._alone, flight.seconds)
        round_trip = min((line.round_trip for line in self._lines), default=0.0)
        pace = Pace(flight.seconds, flight.used, self._alone, round_trip)
        self._lines_to_use = lines_to_use(self._lines_to_use, min(CONNECTIONS, self.jobs), pace, self.size)

    def _has_next(self) -> bool:
        """What PostgreSQL wants next is in the spool."""
        following = window.following(self._position, 1, self.size, self._starts) if self._position else []
        return bool(set(following) & set(self.spool.names()))

    def _failed(self, flight: Flight, error: Exception) -> None:
        name = flight.name
        is_lost = isinstance(error, Lost) or (self.is_stock and isinstance(error, Unreachable) and error.is_connection)
        if is_lost:
            self._losses[name] = self._losses.get(name, 0) + 1
            is_last = not self._lines and not self.is_stock and getattr(error, "is_connection", False)
            if not is_last and self._losses[name] <= LOSSES:
                return  # the next pump finds another way
        elif isinstance(flight.question, stock.Reading):
            if isinstance(error, Absent):
                self._elsewhere.add(name)
            else:
                self._folder = ""  # stored in a way that only Barman can undo
            return  # and so here: Barman itself is asked
        self._losses.pop(name, None)
        self._elsewhere.discard(name)
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

    def _learn(self, name: str, file: BinaryIO) -> None:
        if segment.is_history(name):
            file.seek(0)
            self._starts = window.beginnings(name, segment.history(name, file.read()), self.size)

    # The connections.

    def _add_line(self) -> None:
        request = self.archive.request
        opening = wire.Opening(request.server, codec.accepted(), request.compression, request.config)
        line = Gateway(self.archive.remote, opening, self._line_lost)
        self._lines.append(line)
        self.sessions.start(line)

    def _line_lost(self, line: Gateway, cause: Exception) -> None:
        self._lines.remove(line)
        if isinstance(cause, NoGate) and not self._lines:
            self.is_stock = True
            self._notice = f"{cause}: fetching without it, which is slower"

    def _has_master(self) -> bool:
        if self._master is None:
            try:
                self._master = Master(self.archive.remote, CONTROL, self._master_lost)
            except Unreachable as error:
                self._master_lost(error)
                return False
            self.sessions.start(self._master)
        if self._master.is_ready() and self._folder is None:
            self._inquire()
        return self._master.is_ready()

    def _inquire(self) -> None:
        """Find out where the WAL lies; until that is known Barman is asked for it."""
        self._folder = ""
        request = self.archive.request
        if request.compression:  # which Barman does
            return
        output = Output()

        def end(_error: Optional[Exception]) -> None:
            self._folder = stock.folder_in(output.output)

        with contextlib.suppress(Unreachable):
            self._ask_stock(stock.Inquiry(request.server, request.config), output.add, end)

    def _question(self, name: str) -> Question:
        if self._folder and segment.is_segment(name) and name not in self._elsewhere:
            return stock.Reading(self._folder, name)
        return self.archive.asking(name)

    def _ask_stock(
        self, question: Question, on_data: Callable[[bytes], None], on_end: Callable[[Optional[Exception]], None]
    ) -> None:
        """Raises Unreachable."""
        self.sessions.start(Session(self.archive.remote, question, on_data, on_end, control=CONTROL))

    def _master_lost(self, cause: Exception) -> None:
        self._master = None
        for name in [one for one in self._replies if one not in self._flights]:
            self._answer(name, answer_for(cause))

    def is_waiting_for_master(self) -> bool:
        """The master's socket appears without a word, so somebody has to look."""
        return self._master is not None and not self._master.has_answered and not self._master.is_ready()

    def tick(self) -> None:
        """To be called once in a while: what does not announce itself."""
        newest = max((line.heard_at for line in self._lines), default=0.0)
        for line in [one for one in self._lines if len(one) and newest - one.heard_at > STALLED]:
            self.sessions.give_up(line, Unreachable(f"a connection to {self.archive.remote.host} has stalled"))
        if self._replies:
            self.pump()

    def has_work(self) -> bool:
        """Something is on its way."""
        return bool(self._flights or self._replies)
