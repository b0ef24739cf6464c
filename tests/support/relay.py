"""Relay TCP on loopback, with the delay and the rate of a distant network.

    python -m tests.support.relay PORT TARGET DELAY RATE

DELAY: seconds each way. RATE: bytes a second in each direction, for all connections
together; 0: no limit.
"""

import asyncio
import contextlib
import sys
import time

# Bytes of one read on a link without a rate.
CHUNK = 256 * 1024
# Bytes of one read on a link with a rate: few, so that connections share it.
PACKET = 16 * 1024
# Seconds of data that wait in front of a link with a rate. Without them a late wake-up
# of this process would leave the link idle.
QUEUE = 0.01
# The most bytes on their way: a TCP window that never limits the rate.
UNDER_WAY = 64 << 20


class Link:
    """Compute the times of one direction."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._is_free_at = 0.0

    def passes_at(self, length: int) -> float:
        """Return when the last of `length` bytes leaves, if they are sent now."""
        if not self.rate:
            return time.monotonic()
        self._is_free_at = max(self._is_free_at, time.monotonic()) + length / self.rate
        return self._is_free_at


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, delay: float) -> None:
    """Carry bytes from one end to the other, until one of them is closed."""
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
