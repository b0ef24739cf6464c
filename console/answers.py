"""Read what a standby answers. Nothing else of it is believed than what fits here."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from .text import NotUnderstood

Check = Callable[[Any], bool]

# Larger than any position, size or time.
MOST = 1 << 64
SEGMENT = re.compile(r"[0-9A-F]{24}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # Neither infinity nor NaN is less.
    return isinstance(value, (int, float)) and not _is_flag(value) and abs(value) < MOST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not _is_flag(value) and 0 <= value < MOST


def _is_segment_or_empty(value: Any) -> bool:
    return value == "" or (_is_text(value) and SEGMENT.fullmatch(value) is not None)


def _is_segment_size(value: Any) -> bool:
    return _is_count(value) and value in {1 << power for power in range(20, 31)}


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_map_of_text(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_object(fields: Mapping[str, Check]) -> Check:
    return lambda value: isinstance(value, dict) and not _strange(value, fields)


# What older versions of barman-wal-restore do not say.
OPTIONAL = {"unasked", "is_disproved", "gap", "abandoned", "hosts"}
# What snapshot.QUERY answers, and barman-wal-restore --status --json.
POSTGRES: dict[str, Check] = {
    "version": _is_text,
    "is_recovering": _is_flag,
    "replayed": _or_none(_is_count),
    "replayed_at": _or_none(_is_number),
    "now": _is_number,
    "timeline": _is_count,
    "receiver": _or_none(_is_text),
    "sent": _or_none(_is_count),
    "restore_command": _or_none(_is_text),
    "segment_size": _is_segment_size,
}
COUNTERS: dict[str, Check] = {
    "restored": _is_count,
    "bytes": _is_count,
    "waited": _is_number,
    "last_segment": _is_segment_or_empty,
}
TEST: dict[str, Check] = {
    "time": _is_number,
    "error": _is_text,
    "gate": _is_text,
    "unasked": _is_text,
    "is_disproved": _is_flag,
}
GAP: dict[str, Check] = {"missing": _is_text, "later": _is_text, "newest": _is_segment_or_empty}
ABANDONED: dict[str, Check] = {"timeline": _is_count, "description": _is_text}
FETCHER: dict[str, Check] = {
    "spool": _is_list_of(_is_text),
    "free_segments": _is_count,
    "counters": _is_object(COUNTERS),
    "test": _is_object(TEST),
    "gap": _or_none(_is_object(GAP)),
    "abandoned": _or_none(_is_object(ABANDONED)),
    "hosts": _is_map_of_text,
}


def _strange(answer: Mapping[str, Any], fields: Mapping[str, Check]) -> list[str]:
    """Return the names of the fields that are missing, or of another kind."""
    return [
        name
        for name, check in fields.items()
        if (name not in answer and name not in OPTIONAL) or (name in answer and not check(answer[name]))
    ]


def _parse(host: str, who: str, line: str, fields: Mapping[str, Check]) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood(host, f"{who} answers {line[:200]}") from error
    if not isinstance(answer, dict):
        raise NotUnderstood(host, f"{who} answers {line[:200]}")
    strange = _strange(answer, fields)
    if strange:
        name = strange[0]
        seen = f"{name} is {str(answer[name])[:200]}" if name in answer else f"{name} is missing"
        raise NotUnderstood(host, f"in the answer of {who} {seen}")
    return answer


def parse_snapshot(host: str, output: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what PostgreSQL and the fetcher say in the last two lines of an output.

    Raises NotUnderstood.
    """
    lines = output.rstrip("\n").split("\n")
    if len(lines) < 2:
        raise NotUnderstood(host, f"PostgreSQL and barman-wal-restore answer {output[:200]}")
    postgres = _parse(host, "PostgreSQL", lines[-2], POSTGRES)
    fetcher = _parse(host, "barman-wal-restore", lines[-1], FETCHER)
    if postgres["is_recovering"] and postgres["replayed"] is None:
        raise NotUnderstood(host, "PostgreSQL recovers, but has replayed nothing")
    return postgres, fetcher


def parse_count(host: str, text: str) -> int:
    """Return a whole number that a host has printed. Raises NotUnderstood."""
    if not re.fullmatch(r"[0-9]{1,20}", text.strip(), re.ASCII):
        raise NotUnderstood(host, f"{text[:200]!r} instead of a number")
    return int(text)
