"""Count what was done for PostgreSQL, for whoever watches.

The prefetch process keeps the counters in the spool. They outlive process and boot.
"""

import json
import time
from typing import Dict, NamedTuple, TypeVar

from walbasin import policy
from walbasin.wal import segment

Record = TypeVar("Record", bound=NamedTuple)

# The name of the file in the spool.
FILE = "counters.json"


class Counters:
    """Count what only grows, and remember the last of what matters.

    Times are seconds since 1970 (0: never). waited: the seconds that PostgreSQL has
    waited for replies.
    """

    def __init__(self, text: str = "") -> None:
        """Go on from what `dump` gave, or from nothing when the text cannot be read."""
        self.restored = 0
        self.ready = 0
        self.absent = 0
        self.errors: Dict[str, int] = {policy.UNKNOWN: 0, policy.INVALID: 0, policy.LOCAL_ERROR: 0}
        self.bytes = 0
        self.waited = 0.0
        self.last_segment = ""
        self.last_restored = 0.0
        self.last_error = ""
        self.last_error_time = 0.0
        known = parse_object(text)
        if all(isinstance(known.get(name), type(value)) for name, value in self.__dict__.items()):
            self.__dict__.update({name: known[name] for name in self.__dict__})

    def dump(self) -> str:
        """Return them as one line of JSON."""
        return json.dumps(self.__dict__)

    def count_reply(self, name: str, outcome: str, detail: str, seconds: float) -> None:
        """Count a reply: PostgreSQL has waited for an outcome (policy's)."""
        self.waited += seconds
        if outcome == policy.UNHEARD:
            outcome = policy.UNKNOWN
        if outcome in (policy.ABSENT, policy.UNCONFIRMED):
            self.absent += segment.is_segment_name(name)
        elif outcome in self.errors:
            self.errors[outcome] += 1
            self.last_error, self.last_error_time = f"{name}: {detail}", time.time()

    def count_delivered(self, name: str, size: int, was_ready: bool, seconds: float = 0.0) -> None:
        """Count a segment of `size` bytes that was delivered after `seconds`.

        was_ready: it was in the spool when PostgreSQL wanted it.
        """
        self.restored += 1
        self.ready += was_ready
        self.bytes += size
        self.waited += seconds
        self.last_segment, self.last_restored = name, time.time()


def parse_object(text: str) -> Dict[str, object]:
    """Return the JSON object in a text, or an empty one."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def parse_tuple(text: str, default: Record) -> Record:
    """Return a named tuple from a text of JSON; `default` if a field is missing.

    Each has the type that it has in `default`.
    """
    known = parse_object(text)
    values = [known.get(name) for name in default._fields]
    is_whole = all(isinstance(value, type(usual)) for value, usual in zip(values, default))
    return default._make(values) if is_whole else default
