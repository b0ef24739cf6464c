"""Play a standby for the tests of the console: its answers, good ones and others."""

import io
import json
import re
import shlex
from typing import Any

from hypothesis import strategies as st
from rich.console import Console

from console import table
from console.hosts import Host, Standby
from console.snapshot import NEVER_ASKED, Archive, Snapshot
from console.status import Row

MIB = 1 << 20
SIZE = 16 * MIB
COMMAND = """/usr/local/bin/barman-wal-restore --spool-dir '/wal/100%% full' -p 8 barman angus %f "%p\""""
CHRIS = Standby(
    barman_host="barman",
    barman_server="angus",
    data_directory="/var/lib/postgresql/15/main",
    postgres_user="postgres",
    spool_dir="/wal/100% full",
    restore_command=COMMAND,
)
NOW = 1_800_000_000.0


def snapshot(
    moment: float,
    postgres: dict[str, Any],
    counters: dict[str, Any],
    archive: Archive = NEVER_ASKED,
    **fetcher: Any,
) -> Snapshot:
    return Snapshot(
        moment,
        {
            "version": "15.1",
            "timeline": 1,
            "is_recovering": True,
            "replayed": 0,
            "replayed_at": NOW - 60,
            "now": NOW,
            "receiver": None,
            "sent": None,
            "restore_command": COMMAND,
            "segment_size": SIZE,
            **postgres,
        },
        {
            "counters": {"restored": 0, "bytes": 0, "waited": 0.0, "last_segment": "", **counters},
            "spool": [],
            "free_segments": 40,
            "test": {"time": NOW - 600, "seconds": 0.5, "error": "", "gate": "1"},
            **fetcher,
        },
        archive,
    )


def shown(rows: list[Row], starts: "dict[str, int] | None" = None) -> str:
    file = io.StringIO()
    Console(file=file, width=80, no_color=True).print(table.table(rows, starts))
    return file.getvalue()


WELL = {"receiver": "streaming", "sent": 100 * MIB, "replayed": 99 * MIB}


class Answering(Host):
    """Answer what a test has prepared, with the command's own status."""

    def __init__(self, answers: "dict[str, str]") -> None:
        self.name = "chris"
        self.answers = answers
        self.asked: list[str] = []

    def run(self, *words: str, **_: Any) -> str:
        self.asked.append(shlex.join(words))
        return next(answer for word, answer in self.answers.items() if word in self.asked[-1])


RECORD = json.dumps(CHRIS._asdict())
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b2J\u202e\u2066\u200f\u2028\x85\r\n\x00\x7f\ud800[/][link=http://x]:smile:"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]")


def mutated(draw: Any, value: Any) -> Any:
    """Return an answer with one value, somewhere in it, that is another."""
    junk = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.sampled_from(
            [HOSTILE, "x" * 5000, "FFFFFFFF" * 3, 1 << 64, 10**400, -1, [], {}, [[]], "000000010000000000000001"]
        ),
        st.recursive(st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
    )
    if not isinstance(value, dict) or not value or draw(st.integers(0, 4)) == 0:
        return draw(junk)
    name = draw(st.sampled_from(sorted(value)))
    changed = dict(value)
    if draw(st.integers(0, 3)) == 0:
        del changed[name]
    else:
        changed[name] = mutated(draw, value[name])
    return changed


@st.composite
def answers(draw: Any) -> str:
    postgres = draw(st.sampled_from([{}, WELL, {"is_recovering": False, "replayed": None}]))
    gap = draw(st.sampled_from([None, {"missing": "A", "later": "B", "newest": "000000010000000000000009"}]))
    well = snapshot(0, postgres, {}, gap=gap)
    lines = [well.postgres, well.fetcher]
    for number in draw(st.sampled_from([[0], [1], [0, 1]])):
        lines[number] = mutated(draw, lines[number])
    return "".join(f"{json.dumps(line)}\n" for line in lines)
