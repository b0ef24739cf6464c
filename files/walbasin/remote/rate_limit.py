"""Limit the bytes a second that all connections of a process bring together."""

import time
from typing import Callable

# Seconds of the rate that a pause can save up.
BURST = 0.25
# Seconds of the rate that come together, once all is read: many small reads would cost
# more than they bring.
QUANTUM = 0.05


class RateLimit:
    """Hold what may be read: a token bucket. It is empty at first."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        """rate: bytes a second."""
        self._rate = rate
        self._clock = clock
        self._tokens = 0.0
        self._refilled_at = clock()

    def refill(self) -> float:
        """Add what has come since. Return the seconds to wait before reading, or 0.

        >>> RateLimit(1000, lambda: 0.0).refill()
        0.05
        """
        now = self._clock()
        saved = self._tokens + (now - self._refilled_at) * self._rate
        self._tokens, self._refilled_at = min(saved, BURST * self._rate), now
        missing = QUANTUM - self._tokens / self._rate
        return missing if missing > QUANTUM / 2 else 0.0

    def allowance(self) -> int:
        """Return how many bytes may be read until the next refill."""
        return max(0, int(self._tokens))

    def spend(self, count: int) -> None:
        """Note that so many bytes were read."""
        self._tokens -= count
