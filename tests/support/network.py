"""Disturb the network between ssh and sshd: a TCP relay in a thread of this process."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.processes import free_port
from tests.support.relay import CHUNK, Link, carry

# Bytes a second of a connection with the harm "crawl".
CRAWL = 64 << 10


class Harm(NamedTuple):
    """Disturb a connection when `after` bytes have come back over it.

    kind: "reset", "silence" or "crawl".
    """

    kind: str
    after: int


class _Replies(asyncio.StreamReader):
    """Read the replies of a connection, and disturb them."""

    def __init__(self, network: "Network", reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        super().__init__()
        self._is_chosen = bool(network.harmed)
        if network.harmed:
            network.harmed -= 1
        self._network = network
        self._reader = reader
        self._near = near
        self._count = 0

    def _harm(self) -> Harm | None:
        return self._network.harm if self._is_chosen or self._network.harmed is None else None

    def _is_silent(self) -> bool:
        harm = self._harm()
        return harm is not None and harm.kind == "silence" and self._count >= harm.after

    async def read(self, most: int = CHUNK) -> bytes:
        while self._is_silent():
            await asyncio.sleep(0.02)
        harm = self._harm()
        if harm is not None and self._count >= harm.after:
            if harm.kind == "reset":
                _reset(self._near)
                raise ConnectionResetError
            most = CRAWL // 10
            await asyncio.sleep(0.1)
        elif harm is not None:
            most = min(most, harm.after - self._count)
        data = await self._reader.read(most)
        self._count += len(data)
        self._network.brought += len(data)
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, as a firewall does that does not know it any more."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Network:
    """Relay `port` to another port of loopback, `delay` seconds away.

    rate: bytes a second that all connections together bring; 0: no limit.

    The end of the `with` block ends the relay. `harm` is done to all connections, or to
    the next `harmed` ones, until it is set to None: a silent connection then goes on.
    """

    def __init__(self, target: int, delay: float = 0.0, rate: int = 0) -> None:
        self.port = free_port()
        self.harm: Harm | None = None
        self.harmed: int | None = None
        # How many connections were made, and how many bytes they have brought.
        self.connections = 0
        self.brought = 0
        self._is_partitioned = False
        self._target = target
        self._delay = delay
        self._back = Link(rate)
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> "Network":
        self._thread.start()
        starting = asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.harm = None
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def partition(self) -> None:
        """Reset all connections, and new ones as well, until heal() is called."""
        self._is_partitioned = True
        self._loop.call_soon_threadsafe(self._reset_all)

    def _reset_all(self) -> None:
        for writer in self._open:
            _reset(writer)

    def heal(self) -> None:
        """Let new connections pass again."""
        self._is_partitioned = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._is_partitioned:
            _reset(writer)
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK)
        replies = _Replies(self, far_reader, writer)
        self._open.add(writer)
        try:
            await asyncio.gather(
                carry(reader, far_writer, Link(0), self._delay), carry(replies, writer, self._back, self._delay)
            )
        except asyncio.CancelledError:  # the end of the relay, which asyncio would report
            for each in (writer, far_writer):
                each.transport.abort()
        self._open.discard(writer)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Give a port from which no answer comes.

    Its queue is full, so that Linux drops what else would connect.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            guest = stack.enter_context(socket.socket())
            guest.setblocking(False)
            guest.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
