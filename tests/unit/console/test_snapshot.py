"""Test what a standby and Barman are asked."""

from types import SimpleNamespace
from typing import Any

import pytest

from console.hosts import Cluster
from console.snapshot import MOST_PEEKED, MOST_PEEKS, _peek, archive_end, command_with_option, end_of, segment_at
from console.text import ConsoleError
from tests.support.console_standby import CHRIS, COMMAND, MIB, SIZE

# Where the settings lie in the data directory (__standby_restore_command).
# In the data directory, and for the members of a Patroni cluster.
GUARDED = [
    f"[ -x /usr/local/bin/barman-wal-restore ] && exec {COMMAND}; "
    'echo "barman-wal-restore is not installed on this host" >&2; '
    "[ ! -e recovery.signal ] || [ -e standby.signal ] || exit 200; exit 1",
    f"[ -x /usr/local/bin/barman-wal-restore ] && exec {COMMAND}",
    f"""/bin/sh -c '[ -x "$0" ] && exec "$0" "$@"' {COMMAND}""",
]


def test_restore_command_with_an_option() -> None:
    expected = "/usr/local/bin/barman-wal-restore -t --spool-dir '/wal/100% full' -p 8 barman angus test pg_wal/test"
    assert command_with_option(COMMAND, "-t") == expected
    assert [command_with_option(command, "-t") for command in GUARDED] == [expected] * 3


@pytest.mark.parametrize("command", [COMMAND, *GUARDED])
def test_option_of_a_restore_command(command: str) -> None:
    standby = CHRIS._replace(restore_command=command)
    assert [standby.option(name) for name in ("-p", "--spool-dir", "-c")] == ["8", "/wal/100% full", ""]


@pytest.mark.parametrize(
    ("segment", "size", "end"),
    [
        ("000000010000000000000000", SIZE, SIZE),
        ("0000000100000000000000FF", SIZE, 1 << 32),
        ("000000020000000100000000", SIZE, (1 << 32) + SIZE),
        ("00000001000000000000000F", 256 * MIB, 1 << 32),
    ],
)
def test_segment_end(segment: str, size: int, end: int) -> None:
    assert end_of(segment, size) == end


@pytest.mark.parametrize(("segments", "seen"), [(0, 0), (3, 3), (1024, 1024), (2000, 2000), (20000, MOST_PEEKS * 1024)])
def test_archive_end(segments: int, seen: int) -> None:
    archive = [segment_at((7 + number) * SIZE, 1, SIZE) for number in range(segments)]

    def peek(segment: str) -> list[str]:
        return [name for name in archive if name >= segment][:MOST_PEEKED]

    assert archive_end(7 * SIZE + 100, 1, SIZE, peek) == (7 + seen) * SIZE


@pytest.mark.parametrize(("position", "size", "name"), [(0, SIZE, "0" * 8), ((1 << 32) + SIZE, SIZE, "00000001")])
def test_segment_at_a_position(position: int, size: int, name: str) -> None:
    segment = segment_at(position, 2, size)
    assert segment[:16] == f"00000002{name}"
    assert end_of(segment, size) - size <= position < end_of(segment, size)


@pytest.mark.parametrize(
    ("dead", "asked", "names"),
    [
        ([], ["barman"], ["0" * 24]),
        (["barman"], ["barman", "barman2"], ["0" * 24]),
        (["barman", "barman2"], ["barman", "barman2"], "barman: no route"),
    ],
)
def test_peek_at_several_barman_hosts(dead: list[str], asked: list[str], names: Any) -> None:
    """Ask the preferred host, and another one only where it does not answer."""
    seen: list[str] = []

    def run(*words: str, **_: Any) -> str:
        seen.append(words[-2])
        if seen[-1] in dead:
            raise ConsoleError(f"{seen[-1]}: no route")
        return "0" * 24

    host: Any = SimpleNamespace(name="chris", run=run)
    cluster = Cluster("chris", host, CHRIS._replace(barman_host="barman,barman2"))
    if isinstance(names, str):
        with pytest.raises(ConsoleError, match=names):
            _peek(cluster, "0" * 24)
    else:
        assert _peek(cluster, "0" * 24) == names
    assert seen == asked
