"""Keep the next segments in the spool or on their way, while PostgreSQL replays.

One thread and no locks: everything happens in callbacks of EventLoop. Only
decompression runs beside it, each file in a thread of its own, so that no file that
arrives waits for it.
"""

import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from walbasin import policy
from walbasin.local.debug import debug, is_mistake, traceback_of
from walbasin.local.spool import Spool
from walbasin.remote.archive import Archive, verify
from walbasin.remote.errors import OUTAGES, FetchError, GivenUp, NotInArchive
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import NoGate
from walbasin.remote.gate_pool import GatePool
from walbasin.remote.stock_barman import CONTROL, StockBarman
from walbasin.wal import compression, segment, window
from walbasin.wal.incoming_file import IncomingFile

if TYPE_CHECKING:
    from walbasin.remote.source import Source

# How often a file may be tried another way at each host, before the error is the
# result.
TRIES = 2
# Characters of what is told with a delivered file.
LONGEST_NOTICE = 1000


class FetchResult(NamedTuple):
    """Hold what became of a request.

    outcome: see policy. detail: its cause in words. is_outage: Barman was not reached.
    """

    outcome: str
    detail: str = ""
    is_outage: bool = False


OnResult = Callable[[FetchResult], None]


def result_of(error: Exception) -> FetchResult:
    """Return the result of a request that failed with `error`."""
    if isinstance(error, NotInArchive):
        return FetchResult(policy.ABSENT)
    if isinstance(error, segment.InvalidWal):
        return FetchResult(policy.INVALID, str(error))
    if isinstance(error, FetchError):
        return FetchResult(error.outcome, str(error), isinstance(error, OUTAGES))
    if isinstance(error, OSError) and not is_mistake(error):
        return FetchResult(policy.LOCAL_ERROR, f"spool: {error.strerror or error}")
    return FetchResult(policy.LOCAL_ERROR, f"internal error, please report it: {type(error).__name__}: {error}")


class InFlightFetch:
    """Receive one file into the spool (a FetchHandler)."""

    def __init__(self, prefetcher: "Prefetcher", name: str, file: BinaryIO) -> None:
        self.name = name
        self.file = file
        self.incoming = IncomingFile(
            file,
            lambda: prefetcher.spool.create_temporary(name),
            prefetcher.archive.longest(name),
            lambda length: prefetcher.check_space(name, length),
        )
        # Since the first byte: how many connections were at work then, and the seconds
        # that it took.
        self.connections = 0
        self.seconds = 0.0
        self._prefetcher = prefetcher
        self._first_byte_at = 0.0

    def on_found(self) -> None:
        """Note that the archive has it, and that Barman is at work on it."""
        self._prefetcher.on_found()

    def on_first_byte(self) -> None:
        """Note that the file has begun to arrive."""
        self._first_byte_at = time.monotonic()
        self.connections = self._prefetcher.source.busy_connections()
        self._prefetcher.on_first_byte()

    @property
    def has_first_byte(self) -> bool:
        return self._first_byte_at > 0

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises InvalidWal, OSError."""
        if not self.has_first_byte:
            self.on_first_byte()
        self.incoming.write(data)

    def on_complete(self, error: Optional[Exception]) -> None:
        """Note that all of it is here, or what went wrong."""
        self.seconds = time.monotonic() - self._first_byte_at if self.has_first_byte else 0.0
        self._prefetcher.on_complete(self, error)

    def close(self) -> None:
        """Close its files."""
        self.incoming.close()
        self.file.close()


class Prefetcher:
    """Fetch what is asked for, and what will be."""

    def __init__(self, spool: Spool, archives: Sequence[Archive], jobs: int, size: int, loop: EventLoop) -> None:
        """archives: one for each Barman host, that of the preferred one first.

        jobs: segments on their way or in the spool, counting the requested one. size:
        of a segment, in bytes, as far as it is known before one has come.
        """
        self.spool = spool
        self.archive = archives[0]
        self.jobs = jobs
        self.size = size
        self.loop = loop
        self.source = self._make_source(archives)
        # Of several hosts the last failure of each is told to the one who asks them.
        self._tries = (1 + TRIES) * len(archives) - (len(archives) == 1)
        # Told to PostgreSQL's log with the next file that is delivered.
        self._notice = ""
        # Who waits for a file.
        self._waiting: Dict[str, List[OnResult]] = {}
        loop.urgent = lambda: self._waiting
        self._in_flight: Dict[str, InFlightFetch] = {}
        # What the archive did not have since the last request.
        self._absent: Set[str] = set()
        # How often each file has failed.
        self._attempts: Dict[str, int] = {}
        # The segment that PostgreSQL replays, as far as we know.
        self._position = ""
        # The last segment that it asked for.
        self._requested = ""
        self._spooled = set(spool.names())
        self._timeline_starts: Dict[int, int] = {}
        self._lookahead_credit = 0
        # What threads have decompressed, and the pipe through which they wake the loop.
        self._decompressed: Deque[Tuple[InFlightFetch, Optional[Exception]]] = deque()
        # Files with which a thread is at work.
        self._decompressing = 0
        self._costly = threading.Semaphore(compression.MOST_COSTLY)
        # Segments that a file takes of the spool until it is whole: one that arrives
        # compressed is there twice.
        self._space_each = 1
        self._wake_reader, self._wake_writer = os.pipe()
        loop.add_reader(self._wake_reader, self._on_decompressed)

    def _make_source(self, archives: Sequence[Archive]) -> "Source":
        jobs, loop = self.jobs, self.loop
        if len(archives) == 1:
            return GatePool(
                remote=self.archive.remote,
                opening=self.archive.opening(),
                jobs=jobs,
                loop=loop,
                on_no_gate=self._on_no_gate,
            )
        # Import late: a single host does not need it.
        from walbasin.local.host_memory import HostMemory
        from walbasin.remote.several_hosts import SeveralHosts
        from walbasin.remote.source import GateOrStock

        sources = [
            GateOrStock(
                archive=archive, jobs=jobs, loop=loop, on_no_gate=self._note_no_gate, control=f"{CONTROL}{number}"
            )
            for number, archive in enumerate(archives)
        ]
        return SeveralHosts(list(zip(archives, sources)), loop, HostMemory(self.spool), self._add_notice)

    def _add_notice(self, text: str) -> None:
        if text not in self._notice:
            self._notice = "; ".join(filter(None, [self._notice, text]))[-LONGEST_NOTICE:]

    def _note_no_gate(self, cause: NoGate) -> None:
        self._add_notice(f"{cause}: fetching without it, which is slower")

    def _on_no_gate(self, cause: NoGate) -> None:
        debug(f"{cause}: stock Barman from now on")
        self.source = StockBarman(self.archive, self.jobs, self.loop, self._on_lost)
        self._note_no_gate(cause)

    def _on_lost(self, cause: Exception) -> None:
        """Give up what is not on its way: there is no way to the host."""
        for name in self._not_in_flight():
            self._finish(name, result_of(cause))

    def is_quiet(self) -> bool:
        """Return whether nothing comes, and nothing that came is being decompressed."""
        return self._decompressing == 0 and self.loop.is_quiet()

    def give_up(self, cause: FetchError) -> None:
        """Fetch nothing that is on its way, and say why to who waits."""
        for name in list(self._waiting):
            self._finish(name, result_of(cause))
        self.loop.finish_all(cause)

    # What PostgreSQL does.

    def request(self, name: str, on_result: OnResult) -> None:
        """Fetch a file that is needed now.

        on_result is called once: when it is in the spool, or it is known why not.
        """
        self._absent.clear()
        if segment.is_segment_name(name):
            self._requested = name
        self._waiting.setdefault(name, []).append(on_result)
        if name in self.spool.names():
            self._finish(name, FetchResult(policy.DELIVERED))
        self.pump()

    def follow_replay(self) -> List[str]:
        """Note which segments PostgreSQL has taken. Return those that are left.

        Look into the spool itself: the FIFO tells of a hit a moment later, and to fetch
        it again meanwhile would be a waste.
        """
        spooled = set(self.spool.names())
        taken = self._spooled - spooled
        if taken:
            self._position = max(taken)
            self._absent.clear()
            wanted = set(window.next_segments(self._position, self.jobs, self.size, self._timeline_starts))
            if spooled - wanted:
                debug(f"evicted, behind replay at {self._position}: {sorted(spooled - wanted)}")
            self.spool.remove(spooled - wanted)
            spooled &= wanted
        self._spooled = spooled
        return sorted(spooled)

    def still_wanted(self) -> List[str]:
        """Return the segments in the spool that PostgreSQL may ask for next."""
        spooled = set(self.follow_replay())
        latest = max(self._requested, self._position)
        if latest:
            spooled &= {latest, *window.next_segments(latest, self.jobs, self.size, self._timeline_starts)}
        return sorted(spooled)

    # What is fetched.

    def pump(self) -> None:
        """Make as many requests as there is reason, and space, for."""
        if not self.source.is_ready():
            return
        for name in self._not_in_flight():
            self._fetch(name)
        for name in self._next_to_fetch():
            if not self.source.has_capacity(len(self._in_flight)) or not self._fetch(name):
                break

    def _not_in_flight(self) -> List[str]:
        return [name for name in self._waiting if name not in self._in_flight]

    def _next_to_fetch(self) -> List[str]:
        spooled = self.follow_replay()
        requested = next(filter(segment.is_segment_name, self._waiting), "")
        if not requested and not self._position:
            return []
        count = self.jobs - 1 if requested else self.jobs
        wanted = window.next_segments(requested or self._position, count, self.size, self._timeline_starts)
        in_flight = {name: fetch.has_first_byte for name, fetch in self._in_flight.items()}
        names = window.next_to_fetch(wanted, self._absent, spooled, in_flight, self._lookahead_credit)
        if not names:
            return []
        return names[: max(0, self.spool.free_segments(self.size) // self._space_each - len(in_flight))]

    def check_space(self, name: str, length: int) -> None:
        """Raise OSError where a file would take what must stay free on the disk.

        length: bytes by which it grows. What PostgreSQL waits for is never refused.
        """
        if name not in self._waiting:
            self.spool.check_space(length, self.size)

    def _fetch(self, name: str) -> bool:
        """Have a file on its way. Return False when that cannot be."""
        debug(f"{name}: requested from Barman")
        try:
            file = self.spool.create(name)
        except OSError as error:
            self._finish(name, result_of(error))
            return False
        fetch = InFlightFetch(self, name, file)
        self._in_flight[name] = fetch
        try:
            self.source.request(fetch)
        except FetchError as error:
            fetch.on_complete(error)
            return False
        return True

    def on_found(self) -> None:
        """Ask for all that there may be ahead of replay.

        The gate finds a file, or none, in no time: only what is there costs Barman
        something.
        """
        self._lookahead_credit = max(self._lookahead_credit, self.jobs)
        self.pump()

    def on_first_byte(self) -> None:
        """Ask for one more ahead of replay: the archive has what was asked for."""
        self._lookahead_credit += 1
        self.pump()

    def on_complete(self, fetch: InFlightFetch, error: Optional[Exception]) -> None:
        """Store a file that has arrived, once it is decompressed and verified."""
        if error is None and fetch.incoming.compression:
            self._decompressing += 1
            threading.Thread(target=self._decompress, args=(fetch,), daemon=True).start()
        else:
            self._store_or_retry(fetch, error or self._verify(fetch))

    def _decompress(self, fetch: InFlightFetch) -> None:
        """Run in a thread of its own."""
        with self._costly if fetch.incoming.compression in compression.COSTLY else contextlib.nullcontext():
            error = self._verify(fetch)
        self._decompressed.append((fetch, error))
        os.write(self._wake_writer, b"\0")

    def _on_decompressed(self) -> None:
        os.read(self._wake_reader, 4096)
        while self._decompressed:
            self._decompressing -= 1
            self._store_or_retry(*self._decompressed.popleft())

    def _verify(self, fetch: InFlightFetch) -> Optional[Exception]:
        """Return why a file is not what its name says, or None."""
        try:
            verify(fetch.name, fetch.incoming, fetch.file, self.archive)
        except (segment.InvalidWal, OSError) as error:
            return error
        except Exception as error:  # whatever it is, somebody waits for a result
            report_internal_error(error)
            return error
        return None

    def _store_or_retry(self, fetch: InFlightFetch, error: Optional[Exception]) -> None:
        """Put a file into the spool and tell who waits, or find another way for it."""
        name = fetch.name
        del self._in_flight[name]
        try:
            if error is None:
                self._tune_connections(fetch)
                self.spool.commit(name)
                self._learn(fetch)
        except (segment.InvalidWal, OSError) as failure:
            error = failure
        fetch.close()
        if error is None:
            self._attempts.pop(name, None)
            self.source.on_stored(name)
            self._finish(name, FetchResult(policy.DELIVERED))
        else:
            self.spool.abort(name)
            self._on_failure(name, error)
        self.pump()

    def _tune_connections(self, fetch: InFlightFetch) -> None:
        """Find out whether more connections help, when PostgreSQL has to wait."""
        if segment.is_segment_name(fetch.name) and not self._is_next_spooled():
            self.source.tune(fetch.seconds, fetch.connections, self.size)

    def _is_next_spooled(self) -> bool:
        """Return whether what PostgreSQL wants next is in the spool."""
        if not self._position:
            return False
        wanted = window.next_segments(self._position, 1, self.size, self._timeline_starts)
        return bool(set(wanted) & set(self.spool.names()))

    def _on_failure(self, name: str, error: Exception) -> None:
        self._attempts[name] = self._attempts.get(name, 0) + 1
        debug(f"{name}: attempt {self._attempts[name]} failed: {type(error).__name__}: {error}")
        is_given_up = isinstance(error, GivenUp) or self._attempts[name] > self._tries
        if not is_given_up and self.source.has_another_way(name, error):
            return  # the next pump finds it
        del self._attempts[name]
        self._absent.add(name)
        self._lookahead_credit = 0
        if is_mistake(error):
            report_internal_error(error)
        self._finish(name, result_of(error))

    def _finish(self, name: str, result: FetchResult) -> None:
        """Tell who waits for a file what became of it."""
        debug(f"{name}: {result.outcome} {result.detail}")
        callbacks = self._waiting.pop(name, [])
        if callbacks and result.outcome == policy.DELIVERED:
            result, self._notice = result._replace(detail=self._notice), ""
            if segment.is_segment_name(name):
                self._position = name
        for on_result in callbacks:
            on_result(result)

    def _learn(self, fetch: InFlightFetch) -> None:
        """Keep what a verified file says of those that follow it."""
        if segment.is_history_name(fetch.name):
            fetch.file.seek(0)
            switches = segment.parse_history(fetch.name, fetch.file.read())
            self._timeline_starts = window.timeline_starts(fetch.name, switches, self.size)
        elif segment.is_segment_name(fetch.name):
            self.size = fetch.incoming.length
            self._space_each = 2 if fetch.incoming.compression else 1
            self._spooled.add(fetch.name)

    def tick(self) -> None:
        """Do what does not announce itself. To be called once in a while."""
        self.source.tick()
        if self._waiting:
            self.pump()

    def has_work(self) -> bool:
        """Return whether something is on its way."""
        return bool(self._in_flight or self._waiting)


def report_internal_error(error: BaseException) -> None:
    """Write a mistake of ours, with its traceback, to syslog and the debug file."""
    report(traceback_of(error))


def report(text: str) -> None:
    """Write lines to syslog."""
    import syslog

    syslog.openlog("barman-wal-restore", syslog.LOG_PID)
    for line in text.splitlines():
        syslog.syslog(syslog.LOG_ERR, line)
