"""Fetch one file from several Barman hosts, by `barman get-wal`."""

import os
import tempfile
from typing import Callable, Optional, Sequence

from walbasin.local.host_memory import HostMemory
from walbasin.local.whole_file import whole_file
from walbasin.remote.archive import STEP, Archive, verify
from walbasin.remote.errors import FetchError, GivenUp, NotInArchive
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_fetch import SingleFetch
from walbasin.remote.several_hosts import SeveralHosts
from walbasin.remote.source import SingleSessions
from walbasin.wal import segment
from walbasin.wal.compression import UnsupportedCompression
from walbasin.wal.incoming_file import IncomingFile

# Starts what is to be done beside the requested file, at the host that brings it.
Beside = Callable[[EventLoop, Archive], None]


def fetch(
    archives: Sequence[Archive],
    name: str,
    destination: str,
    *,
    memory: HostMemory,
    on_notice: Callable[[str], None],
    beside: Optional[Beside] = None,
) -> None:
    """Put file `name` under `destination`, from the first host that has it.

    on_notice is called with what is worth knowing of a file that has come. beside is
    waited for. Raises what archive.fetch does.
    """
    with EventLoop(archives[0].rate_limit) as loop:
        loop.urgent = lambda: (name,)
        sources = [(each, SingleSessions(each, loop)) for each in archives]
        hosts = SeveralHosts(sources, loop, memory, on_notice)
        is_begun = False

        def look() -> None:
            nonlocal is_begun
            hosts.tick()
            source = hosts.bringing(name)
            if beside is not None and source is not None and not is_begun:
                is_begun = True
                beside(loop, source)

        is_waiting = True
        while is_waiting:
            try:
                _fetch_once(hosts, archives[0], name, destination, loop, look)
                is_waiting = False
            except (FetchError, NotInArchive, segment.InvalidWal) as error:
                # What this standby cannot decompress is asked for otherwise.
                is_kept = isinstance(error, UnsupportedCompression) and archives[0].request.keep_compression
                if is_kept or isinstance(error, GivenUp) or not hosts.has_another_way(name, error):
                    raise
        hosts.on_stored(name)
        if beside is not None:
            for slow in (each for each in archives if each is not hosts.last.archive):
                for connection in loop.connections_to(slow.remote):
                    loop.abort(connection)
            loop.run_until(lambda: False)


def _fetch_once(  # noqa: PLR0917
    hosts: SeveralHosts, archive: Archive, name: str, destination: str, loop: EventLoop, look: Callable[[], None]
) -> None:
    """Put a file under `destination`, from one host.

    look is called once in a while. Raises what archive.fetch does.
    """
    folder = os.path.dirname(os.path.abspath(destination))
    with whole_file(destination) as file:
        incoming = IncomingFile(file, lambda: tempfile.TemporaryFile(dir=folder), archive.longest(name))  # noqa: SIM115
        try:
            single = SingleFetch(name, incoming)
            hosts.request(single)
            while len(loop) and not single.is_complete:
                loop.run_once(STEP)
                look()
                is_unwanted = not single.is_complete and loop.is_quiet() and archive.promotion.is_asked_for()
                if is_unwanted and not hosts.ask_others():
                    raise GivenUp
            if single.error is not None:
                raise single.error
            verify(name, incoming, file, archive)
        finally:
            incoming.close()
