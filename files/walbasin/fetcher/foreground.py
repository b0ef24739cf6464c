"""Fill the spool in the foreground, where no prefetch process may run."""

import contextlib
from typing import List, Optional

from walbasin.fetcher.log import describe
from walbasin.local.debug import debug, is_mistake, traceback_of
from walbasin.local.spool import Spool
from walbasin.remote.archive import Archive, RemoteOutput, verify
from walbasin.remote.errors import FetchError, NotInArchive
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.ssh import MOST_CONNECTIONS, Session
from walbasin.wal import segment, window
from walbasin.wal.incoming_file import IncomingFile


class ForegroundPrefetch:
    """Fetch what comes after the requested segment, beside its own fetch.

    Never raises: it can only help. `errors` has what went wrong, in words.
    """

    def __init__(self, spool: Spool, archive: Archive, requested: str, jobs: int, size: int) -> None:
        """jobs: segments to fetch, with the requested one. size: bytes of a segment."""
        self.errors: List[str] = []
        self._spool = spool
        self._archive = archive
        self._requested = requested
        self._jobs = jobs
        self._size = size
        self._queue: List[str] = []

    def start(self, loop: EventLoop, archive: Optional[Archive] = None) -> None:
        """Ask what the archive has, and fetch that.

        archive: that of the one of several hosts which brings the requested file.
        """
        self._archive = archive or self._archive
        output = RemoteOutput()

        def plan(_: Optional[Exception]) -> None:
            try:
                self._queue = self._choose(output.names())
            except Exception as error:  # the requested file does not depend on it
                self._note("the spool", error)
            for _each in range(MOST_CONNECTIONS - 1):
                self._fetch_next(loop)

        with contextlib.suppress(FetchError):  # the requested file's own session tells
            peek = self._archive.peek_for(self._requested, self._jobs)
            loop.add(Session(self._archive.remote, peek, output.add, plan))

    def _choose(self, offered: List[str]) -> List[str]:
        """Return what to fetch, and clear the spool of what is not wanted."""
        wanted = window.next_segments(self._requested, self._jobs, self._size, {})
        unwanted = set(self._spool.names()) - set(wanted)
        if unwanted:
            debug(f"taken out of the spool, not wanted any more: {' '.join(sorted(unwanted))}")
        self._spool.remove(unwanted)
        free = self._spool.free_segments(self._size)
        return window.offered_to_fetch(self._requested, offered, self._spool.names(), self._jobs, free)

    def _note(self, what: str, error: Exception) -> None:
        """Keep what went wrong in words; of a mistake of ours the traceback as well."""
        if is_mistake(error) or not isinstance(error, (FetchError, segment.InvalidWal, OSError)):
            traceback_of(error)
            what = f"internal error, please report it: {what}"
        self.errors.append(f"{what}: {describe(error)}")

    def _fetch_next(self, loop: EventLoop) -> None:
        if not self._queue:
            return
        name = self._queue.pop(0)
        try:
            file = self._spool.create(name)
        except OSError as error:
            self._note("spool", error)
            return
        # Decompress one file at a time, when it is whole: each may need much memory.
        incoming = IncomingFile(
            file,
            lambda: self._spool.create_temporary(name),
            self._archive.longest(name),
            lambda length: self._spool.check_space(length, self._size),
        )

        def on_end(error: Optional[Exception]) -> None:
            with file, contextlib.closing(incoming):
                try:
                    if error is not None:
                        raise error
                    verify(name, incoming, file, self._archive)
                    self._spool.commit(name)
                except NotInArchive:
                    self._spool.abort(name)
                except Exception as failure:  # the requested file does not depend on it
                    self._spool.abort(name)
                    self._note(name, failure)
            self._fetch_next(loop)

        try:
            loop.add(Session(self._archive.remote, self._archive.request_for(name), incoming.write, on_end))
        except FetchError as error:
            on_end(error)
