"""A TCP relay on loopback that makes a far network of it: python -m tests.support.relay PORT TARGET DELAY RATE.

DELAY: seconds each way. RATE: bytes a second in each direction, all connections together; 0: no limit.
"""

import asyncio
import contextlib
import sys
import time

CHUNK = 256 * 1024
# Of a link with a rate: a packet's worth, so that connections share it.
PACKET = 16 * 1024
# Seconds of what waits in front of a link with a rate, so that it never runs dry by our own lateness.
QUEUE = 0.01
# What is on its way at most; a window of TCP that never holds anybody back.
UNDER_WAY = 64 << 20


class Link:
    """One direction."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._is_free_at = 0.0

    def passes_at(self, length: int) -> float:
        """When the last of so many bytes has left, if they are put on it now."""
        if not self.rate:
            return time.monotonic()
        self._is_free_at = max(self._is_free_at, time.monotonic()) + length / self.rate
        return self._is_free_at


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, delay: float) -> None:
    """Bytes from one end to the other, until one of them is closed."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY // PACKET)

    async def receive() -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PACKET if link.rate else CHUNK):
                left = link.passes_at(len(data))
                await under_way.put((left + delay, data))
                await sleep_until(left - QUEUE)
        await under_way.put((0.0, b""))

    receiving = asyncio.create_task(receive())
    with contextlib.suppress(OSError):
        while True:
            due, data = await under_way.get()
            if not data:
                break
            await sleep_until(due)
            writer.write(data)
            await writer.drain()
    receiving.cancel()
    writer.close()


async def sleep_until(due: float) -> None:
    left = due - time.monotonic()
    if left > 0:
        await asyncio.sleep(left)


async def serve(port: int, target: int, delay: float, rate: int) -> None:
    there, back = Link(rate), Link(rate)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, limit=CHUNK)
        await asyncio.gather(carry(reader, far_writer, there, delay), carry(far_reader, writer, back, delay))

    async with await asyncio.start_server(accept, "127.0.0.1", port, limit=CHUNK) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
