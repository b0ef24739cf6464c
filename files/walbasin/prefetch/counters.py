"""What was done for PostgreSQL, kept by the background process for whoever watches. It outlives process and boot."""

import json
import time
from typing import Dict

from walbasin import policy
from walbasin.wal import segment

FILE = "record.json"


class Record:
    """Counters that only grow, and the last of what matters.

    Times are seconds since 1970 (0: never); `waited` is how many seconds PostgreSQL has waited for answers.
    """

    def __init__(self, text: str = "") -> None:
        """Goes on from what `dump` gave; from nothing, when the text cannot be read."""
        self.restored = 0
        self.ready = 0
        self.absent = 0
        self.errors: Dict[str, int] = {policy.UNKNOWN: 0, policy.INVALID: 0, policy.UNUSABLE: 0}
        self.bytes = 0
        self.waited = 0.0
        self.last_segment = ""
        self.last_restored = 0.0
        self.last_error = ""
        self.last_error_time = 0.0
        known = read(text)
        if all(isinstance(known.get(name), type(value)) for name, value in self.__dict__.items()):
            self.__dict__.update({name: known[name] for name in self.__dict__})

    def dump(self) -> str:
        """One line of JSON."""
        return json.dumps(self.__dict__)

    def note_answer(self, name: str, outcome: str, detail: str, seconds: float) -> None:
        """PostgreSQL has waited for `seconds` to be told the outcome (policy's) for file `name`."""
        self.waited += seconds
        if outcome == policy.ABSENT:
            self.absent += segment.is_segment(name)
        elif outcome in self.errors:
            self.errors[outcome] += 1
            self.last_error, self.last_error_time = f"{name}: {detail}", time.time()

    def note_taken(self, name: str, size: int, was_ready: bool, seconds: float = 0.0) -> None:
        """A segment of `size` bytes was handed over, when PostgreSQL wanted it or after `seconds`."""
        self.restored += 1
        self.ready += was_ready
        self.bytes += size
        self.waited += seconds
        self.last_segment, self.last_restored = name, time.time()


def read(text: str) -> Dict[str, object]:
    """The JSON object in a text, or {}."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
