"""Bring files from several Barman hosts, in order of preference (a Source).

The first host is asked. The next one is asked when the one before has said no, has
failed, or is silent; and all at once for what was missing a moment ago. Whoever begins
first brings the file: bytes come from one host at a time.
"""

import math
import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from walbasin import policy
from walbasin.local.debug import debug
from walbasin.local.host_memory import HostMemory
from walbasin.policy import HostAnswer
from walbasin.remote.archive import Archive
from walbasin.remote.errors import (
    OUTAGES,
    ConnectionLost,
    FetchError,
    GivenUp,
    HostUnreachable,
    NotInArchive,
    ReadTimeout,
    RemoteError,
    Unconfirmed,
    Unheard,
)
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import FetchHandler
from walbasin.remote.source import Source
from walbasin.wal import segment
from walbasin.wal.incoming_file import IncomingFile

# Seconds without a sign of a host, after which the next one is asked as well; and for
# which a promotion waits for the others when the first host has no such file.
HEDGE = 1.0
# Seconds of silence in the middle of a file, after which a host loses its work to
# another one.
STALLED = 5.0
# Seconds for which a host that has failed is not asked first. It is asked as soon as it
# is not skipped any more, when the others have no such file.
AVOIDED = 60.0
# How often a file may be tried another way at one host.
TRIES = 2


class Host:
    """Hold one Barman host, and how it does."""

    def __init__(self, archive: Archive, source: Source) -> None:
        self.name = archive.remote.host
        self.archive = archive
        self.source = source
        # When it has failed, on the monotonic clock, unless it has answered since.
        self.failed_at = -math.inf


class HostFetch:
    """Receive one file from one host (a FetchHandler), unless another is sooner."""

    def __init__(self, search: "Search", host: Host, on_answer: "Callable[[HostFetch, Optional[Exception]], None]"):
        self.name = search.name
        self.search = search
        self.host = host
        self.asked_at = time.monotonic()
        self._on_answer = on_answer

    @property
    def incoming(self) -> IncomingFile:
        """Return where the file goes. Raises ConnectionLost when nobody wants it."""
        return self.search.handler_for(self).incoming

    def on_found(self) -> None:
        """Note that the archive has the file. Another host may still be sooner."""
        if self.search.winner in (None, self) and self.search.handler is not None:
            self.search.handler.on_found()

    def on_first_byte(self) -> None:
        """Note that the file has begun to arrive."""
        self.search.handler_for(self).on_first_byte()

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises ConnectionLost, InvalidWal, OSError."""
        self.search.handler_for(self).write(data)

    def on_complete(self, error: Optional[Exception]) -> None:
        """Note that all has arrived (error is None), or what went wrong."""
        self._on_answer(self, error)


class Search:
    """Hold which hosts were asked for a file, and what they have said."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Who wants it; None while a file that has failed is not asked for again.
        self.handler: Optional[FetchHandler] = None
        self.answers: Dict[Host, HostAnswer] = {}
        self.pending: List[HostFetch] = []
        self.attempts: Dict[Host, int] = {}
        # What brings the file, or has brought it.
        self.winner: Optional[HostFetch] = None
        # A promotion waits, and whoever is left was asked.
        self.is_hurried = False
        # When the preferred host has said no.
        self.no_since = math.inf

    def handler_for(self, fetch: HostFetch) -> FetchHandler:
        """Return the handler for whoever begins first.

        Raises ConnectionLost for the others.
        """
        if self.handler is None or fetch not in self.pending or self.winner not in (None, fetch):
            raise ConnectionLost(f"{self.name} is not wanted from {fetch.host.name} any more")
        if self.winner is None:
            debug(f"{self.name}: comes from {fetch.host.name}")
            self.winner = fetch
        return self.handler


class SeveralHosts:
    """Ask several hosts for files, and bring them.

    on_notice is called with what is worth knowing of a file that has come.
    """

    def __init__(
        self,
        sources: Sequence[Tuple[Archive, Source]],
        loop: EventLoop,
        memory: HostMemory,
        on_notice: Callable[[str], None],
    ) -> None:
        self._hosts = [Host(archive, source) for archive, source in sources]
        self._loop = loop
        self._memory = memory
        self._notify = on_notice
        self._searches: Dict[str, Search] = {}
        # Whoever has brought the last file.
        self.last = self._hosts[0]

    # The hosts.

    def _ordered(self) -> List[Host]:
        """Return the hosts in the order in which they are asked now."""
        now = time.monotonic()
        return sorted(self._hosts, key=lambda host: now - host.failed_at < AVOIDED)

    def _preferred(self) -> Host:
        ordered = self._ordered()
        return next((host for host in ordered if not self._memory.why_skipped(host.name)), ordered[0])

    def _note_answer(self, host: Host) -> None:
        host.failed_at = -math.inf
        self._memory.note_answer(host.name)

    def _note_failure(self, host: Host, cause: str) -> None:
        debug(f"{host.name} is not asked for a while: {cause}")
        host.failed_at = time.monotonic()
        self._memory.note_outage(host.name, cause)

    # Requests.

    def is_ready(self) -> bool:
        """Return True: what cannot be asked yet waits."""
        return True

    def has_capacity(self, in_flight: int) -> bool:
        """Return whether another request would not only wait."""
        return self._preferred().source.has_capacity(in_flight)

    def request(self, handler: FetchHandler) -> None:
        """Ask for a file; again, where has_another_way has said so."""
        search = self._searches.get(handler.name)
        if search is None:
            search = self._searches[handler.name] = Search(handler.name)
            self._skip_hosts(search)
        search.handler = handler
        self._ask_next(search)

    def _skip_hosts(self, search: Search) -> None:
        """Answer for the hosts that are not asked now. If that were all, ask them.

        In a point-in-time recovery those that were not reached are only asked last: a
        "no" needs their word.
        """
        causes = {host: self._memory.why_skipped(host.name) for host in self._hosts}
        foreign = [host for host in self._hosts if self._memory.why_foreign(host.name)]
        skipped = [host for host, cause in causes.items() if cause and self._is_standby()]
        left_out = next((each for each in ({*foreign, *skipped}, {*foreign}) if len(each) < len(self._hosts)), set())
        for host in self._hosts:
            if host in left_out:
                self._answer(search, host, policy.SKIPPED, causes[host])
            elif causes[host]:
                host.failed_at = time.monotonic()

    def _is_standby(self) -> bool:
        return bool(self._hosts[0].archive.promotion.files)

    def _answer(self, search: Search, host: Host, outcome: str, detail: str = "") -> None:
        search.answers[host] = HostAnswer(host.name, outcome, detail, self._memory.copied(host.name))
        first = next((each for each in self._hosts if self._memory.copied(each.name) is None), host)
        if outcome == policy.ABSENT and host is first:
            search.no_since = time.monotonic()

    def _unasked(self, search: Search) -> List[Host]:
        asked = [fetch.host for fetch in search.pending]
        return [host for host in self._ordered() if host not in search.answers and host not in asked]

    def _ask_next(self, search: Search) -> None:
        """Ask whom it is time to ask. Without anybody left, say what it has come to."""
        unasked = self._unasked(search)
        is_missing = segment.is_history_name(search.name) or self._memory.was_missed(search.name)
        for host in unasked if is_missing else unasked[:1] if not search.pending else []:
            if search.handler is not None and host in self._unasked(search):  # another may have failed at once
                self._ask(search, host)
        if not search.pending and search.handler is not None and not self._unasked(search):
            self._give_result(search)

    def _ask(self, search: Search, host: Host) -> None:
        debug(f"{search.name}: {host.name} is asked")
        fetch = HostFetch(search, host, self._on_answer)
        search.pending.append(fetch)
        try:
            host.source.request(fetch)
        except FetchError as error:
            self._on_answer(fetch, error)

    def _on_answer(self, fetch: HostFetch, error: Optional[Exception]) -> None:
        """Note what a host has said: to whoever asked, and of the host itself."""
        search, host = fetch.search, fetch.host
        is_awaited = fetch in search.pending and self._searches.get(search.name) is search
        is_loser = search.winner not in (None, fetch)
        if error is None or isinstance(error, (NotInArchive, RemoteError)):
            self._note_answer(host)
        elif isinstance(error, OUTAGES) and not isinstance(error, GivenUp) and not self._has_way(fetch, error):
            self._note_failure(host, str(error))
        if not is_awaited:
            return
        handler = search.handler
        if error is None and handler is not None and not is_loser:
            search.winner, search.handler, self.last = fetch, None, host
        search.pending.remove(fetch)
        if isinstance(error, GivenUp):
            self._end(search, error)
        elif handler is None or is_loser:
            return
        elif error is None:
            handler.on_complete(None)
        elif search.winner is fetch:  # the file must begin anew
            self._note_error(search, host, error)
            search.winner = search.handler = None
            handler.on_complete(error)
        else:
            self._note_error(search, host, error)
            self._ask_next(search)

    def _has_way(self, fetch: HostFetch, error: Exception) -> bool:
        is_fresh = fetch.search.attempts.get(fetch.host, 0) < TRIES
        return is_fresh and fetch.host.source.has_another_way(fetch.name, error)

    def _note_error(self, search: Search, host: Host, error: Exception) -> None:
        """Take an error as a host's answer, unless it may bring the file yet."""
        if search.attempts.get(host, 0) < TRIES and host.source.has_another_way(search.name, error):
            search.attempts[host] = search.attempts.get(host, 0) + 1
        elif isinstance(error, NotInArchive):
            self._answer(search, host, policy.ABSENT)
        elif isinstance(error, segment.InvalidWal):
            if isinstance(error, segment.ForeignWal):
                self._memory.note_foreign(host.name)
            self._answer(search, host, policy.INVALID, str(error))
        else:
            self._answer(search, host, policy.UNKNOWN, str(error))

    def has_another_way(self, name: str, error: Exception) -> bool:
        """Return whether a request that failed so may succeed if it is made again.

        The error may be that of a file that came and failed verification.
        """
        search = self._searches.get(name)
        if search is None:
            return False
        if isinstance(error, OSError):  # of our own disk
            del self._searches[name]
            return False
        if search.winner is not None:
            self._note_error(search, search.winner.host, error)
            search.winner = None
        return True

    def bringing(self, name: str) -> Optional[Archive]:
        """Return the archive of the host that brings a file, None before one does."""
        search = self._searches.get(name)
        return search.winner.host.archive if search and search.winner else None

    def on_stored(self, name: str) -> None:
        """Note that a file was verified, and is kept."""
        search = self._searches.pop(name, None)
        if search is None or search.winner is None:
            return
        if segment.is_segment_name(name):
            self._memory.note_ours(search.winner.host.name)
        self._answer(search, search.winner.host, policy.DELIVERED)
        _, text = policy.judge_answers(self._in_order(search))
        if text:
            self._notify(text)

    def _in_order(self, search: Search) -> List[HostAnswer]:
        return [search.answers[host] for host in self._hosts if host in search.answers]

    def _give_result(self, search: Search) -> None:
        answers = self._in_order(search)
        outcome, text = policy.judge_answers(answers)
        debug(f"{search.name}: {outcome}: {answers}")
        if outcome in (policy.ABSENT, policy.UNCONFIRMED, policy.UNHEARD):
            self._memory.note_missed(search.name)
        is_outage = all(self._memory.why_skipped(answer.host) for answer in answers)
        kinds = {
            policy.ABSENT: NotInArchive(),
            policy.UNCONFIRMED: Unconfirmed(text),
            policy.UNHEARD: Unheard(text),
            policy.INVALID: segment.InvalidWal(text),
        }
        self._end(search, kinds.get(outcome) or (HostUnreachable if is_outage else RemoteError)(text))

    def _end(self, search: Search, error: Exception) -> None:
        del self._searches[search.name]
        handler, search.handler = search.handler, None
        if handler is not None:
            handler.on_complete(error)

    # Time.

    def tick(self) -> None:
        """Ask others where a host is silent. To be called once in a while."""
        for host in self._hosts:
            host.source.tick()
        for search in list(self._searches.values()):
            if search.handler is not None and self._searches.get(search.name) is search:
                self._look_at(search)

    def _look_at(self, search: Search) -> None:
        unasked = self._unasked(search)
        if search.winner is not None:
            others = set(self._hosts) - {search.winner.host, *search.answers}
            if others and self._is_silent(search.winner, STALLED):
                self._take_away(search.winner.host)
        elif unasked and all(self._is_silent(fetch, HEDGE) for fetch in search.pending):
            for fetch in search.pending:
                fetch.host.failed_at = time.monotonic()
            self._ask(search, unasked[0])
        elif search.pending and self._is_hurried(search):
            self._leave_pending(search)

    def _take_away(self, host: Host) -> None:
        """End what a host brings: another one may."""
        silence = ReadTimeout(f"{host.name} was silent in the middle of a file")
        for connection in self._loop.connections_to(host.archive.remote):
            self._loop.finish(connection, silence)

    def _leave_pending(self, search: Search) -> None:
        """Say what a search has come to without those that have not answered."""
        for fetch in search.pending:
            cause = f"{fetch.host.name} has not answered, and this server is to be promoted"
            self._note_failure(fetch.host, cause)
            self._answer(search, fetch.host, policy.UNKNOWN, cause)
        search.pending.clear()
        self._give_result(search)

    def _is_silent(self, fetch: HostFetch, limit: float) -> bool:
        """Return whether nothing of a host was heard for so many seconds."""
        signs = [one.last_sign for one in self._loop.connections_to(fetch.host.archive.remote)]
        return time.monotonic() - max([fetch.asked_at, *signs]) > limit

    def _is_hurried(self, search: Search) -> bool:
        """Return whether a promotion has waited long enough for the others' no."""
        is_asked_for = self._hosts[0].archive.promotion.is_asked_for()
        return is_asked_for and time.monotonic() - search.no_since > HEDGE

    def ask_others(self) -> bool:
        """Ask those hosts that were not asked, because a promotion waits.

        Once, also instead of one that is silent in the middle of a file. Return whether
        there were any.
        """
        is_any = False
        for search in [each for each in self._searches.values() if each.handler is not None and not each.is_hurried]:
            search.is_hurried = True
            if search.winner is None:
                for host in self._unasked(search):
                    if search.handler is not None and host in self._unasked(search):  # another may have failed at once
                        is_any = True
                        self._ask(search, host)
            elif set(self._hosts) - {search.winner.host, *search.answers}:
                is_any = True
                self._take_away(search.winner.host)
        return is_any

    def must_be_polled(self) -> bool:
        """Return whether something is awaited that does not announce itself."""
        open_searches = [each for each in self._searches.values() if each.handler is not None and each.winner is None]
        is_promotion_awaited = any(search.no_since != math.inf for search in open_searches)
        return is_promotion_awaited or any(host.source.must_be_polled() for host in self._hosts)

    # Connections.

    def busy_connections(self) -> int:
        """Return how many connections have something to bring."""
        return self.last.source.busy_connections()

    def tune(self, seconds: float, connections: int, size: int) -> None:
        """Learn from the time of a segment that PostgreSQL had to wait for."""
        self.last.source.tune(seconds, connections, size)
