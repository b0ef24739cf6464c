"""Say what a contest is, and who takes part in it.

A contest gives a function for each of them, which is called once a round, and returns
what it has measured: row -> value. `limit` is what cannot be surpassed, or what ours is
compared with.
"""

import contextlib
from collections.abc import Callable

from .field import Field, Standby

OURS, NO_GATE, STOCK, PGBACKREST = "ours", "ours, no gate", "stock", "pgBackRest"
CP, MV, LIMIT = "cp", "mv", "limit"

Entrants = dict[str, Callable[[], dict[str, float]]]
Contest = Callable[[Field, Standby], contextlib.AbstractContextManager[Entrants]]
