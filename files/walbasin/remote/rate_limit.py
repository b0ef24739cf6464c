"""Limit the bytes a second that all connections of a process bring together."""

import time
from typing import Callable

# Seconds of the rate that a pause can save up.
BURST = 0.25
# Seconds of the rate that must be there before reading goes on: many small reads would
# cost more than they bring.
QUANTUM = 0.05


class RateLimit:
    """Hold what may be read now: a token bucket. It is empty at first."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        """rate: bytes a second."""
        self._rate = rate
        self._clock = clock
        self._tokens = 0.0
        self._counted_at = clock()

    def allowance(self) -> int:
        """Return how many bytes may be read now."""
        now = self._clock()
        saved = self._tokens + (now - self._counted_at) * self._rate
        self._tokens, self._counted_at = min(saved, BURST * self._rate), now
        return max(0, int(self._tokens))

    def spend(self, count: int) -> None:
        """Note that so many bytes were read."""
        self._tokens -= count

    def wait(self) -> float:
        """Return the seconds until it is worth reading again; 0 where something may be.

        >>> RateLimit(1000, lambda: 0.0).wait()
        0.05
        """
        if self.allowance() > 0:
            return 0.0
        return QUANTUM - self._tokens / self._rate
