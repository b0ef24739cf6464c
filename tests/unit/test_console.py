import io
import json
import re
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from console import drill, partition, report, status, table
from console.answers import parse_count, parse_snapshot
from console.drill import Evidence, Phase, Sample
from console.hosts import Cluster, Host, Standby, read_clusters
from console.inventory import Inventory
from console.ssh import login_error
from console.status import Archive, Row, Snapshot
from console.text import ConsoleError, NotUnderstood, duration, printable
from tests.support.processes import wait_until

MIB = 1 << 20
SIZE = 16 * MIB
COMMAND = """/usr/local/bin/barman-wal-restore --spool-dir '/wal/100%% full' -p 8 barman angus %f "%p\""""
# Where the settings lie in the data directory (__standby_restore_command).
# In the data directory, and for the members of a Patroni cluster.
GUARDED = [
    f"[ -x /usr/local/bin/barman-wal-restore ] && exec {COMMAND}; "
    'echo "barman-wal-restore is not installed on this host" >&2; '
    "[ ! -e recovery.signal ] || [ -e standby.signal ] || exit 200; exit 1",
    f"[ -x /usr/local/bin/barman-wal-restore ] && exec {COMMAND}",
    f"""/bin/sh -c '[ -x "$0" ] && exec "$0" "$@"' {COMMAND}""",
]
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
    archive: Archive = status.NEVER_ASKED,
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


def row_of(before: Snapshot, after: Snapshot) -> Row:
    return status.row("chris", CHRIS, before, after)


def test_row_of_a_streaming_standby() -> None:
    postgres = {"receiver": "streaming", "sent": 5 * MIB, "replayed": 3 * MIB}
    row = row_of(snapshot(0, postgres, {}), snapshot(2, postgres, {}))
    assert (row.role, row.lag_bytes, row.lag_seconds) == (status.STREAMING, 2 * MIB, 60)
    assert (row.fetch_rate, row.replay_rate, row.bottleneck, row.eta) == (None, None, "", None)
    assert row.problems == ()
    assert row.test_age == 600


def test_row_of_a_quiet_primary() -> None:
    postgres = {"receiver": "streaming", "sent": 5 * MIB, "replayed": 5 * MIB}
    row = row_of(snapshot(0, postgres, {}), snapshot(2, postgres, {}))
    assert (row.lag_bytes, row.lag_seconds) == (0, None)


@pytest.mark.parametrize(("waited", "bottleneck"), [(1.9, "fetch"), (0.1, "replay")])
def test_row_of_a_restoring_standby(waited: float, bottleneck: str) -> None:
    spool = [f"0000000100000000000000{number:02X}" for number in (4, 5)]
    before = snapshot(0, {"replayed": 1 * SIZE}, {"bytes": SIZE}, spool=spool[:1])
    after = snapshot(
        2, {"replayed": 3 * SIZE}, {"bytes": 3 * SIZE, "waited": waited}, Archive(2, 43 * SIZE), spool=spool
    )
    row = row_of(before, after)
    assert (row.role, row.spool_segments, row.bottleneck) == (status.RESTORING, 2, bottleneck)
    assert row.fetch_rate == 1.5 * SIZE, "two were handed over, and one more lies in the spool, in two seconds"
    assert row.replay_rate == SIZE
    assert row.lag_bytes == 40 * SIZE, "to the end of the archive, not of the spool"
    assert row.eta == 40


def test_rates_without_a_prefetch_process() -> None:
    direct = CHRIS._replace(restore_command=COMMAND.replace("-p 8", "-p 1"))
    row = status.row("chris", direct, snapshot(0, {}, {}), snapshot(2, {"replayed": SIZE}, {}))
    assert (row.fetch_rate, row.replay_rate, row.bottleneck) == (None, SIZE / 2, "")


def test_row_of_a_former_primary() -> None:
    row = row_of(snapshot(0, {"is_recovering": False, "replayed": None}, {}), snapshot(2, {"replayed": SIZE}, {}))
    assert (row.role, row.replay_rate) == (status.RESTORING, 0)


def test_row_without_progress() -> None:
    row = row_of(snapshot(0, {}, {}), snapshot(2, {}, {}))
    assert (row.role, row.lag_bytes, row.eta, row.bottleneck) == (status.RESTORING, None, None, "")


def test_lag_beyond_gap() -> None:
    """Count to the archive's real end, not to the gap where the standby is stuck."""
    gap = {"missing": "", "later": "", "newest": "000000010000000000000009"}
    row = row_of(snapshot(0, {}, {}), snapshot(2, {"replayed": 4 * SIZE}, {}, archive=Archive(2, 4 * SIZE), gap=gap))
    assert row.lag_bytes == 6 * SIZE


def test_row_of_a_primary() -> None:
    after = snapshot(2, {"is_recovering": False}, {})
    row = row_of(snapshot(0, {}, {}), after)
    assert (row.role, row.problems, row.notes) == (status.PRIMARY, (), (status.IS_PRIMARY,))
    after.fetcher["test"]["error"] = "the key was refused"
    (problem,) = row_of(snapshot(0, {}, {}), after).problems
    assert "the key was refused" in problem


@pytest.mark.parametrize(
    ("postgres", "fetcher", "words"),
    [
        ({"restore_command": "true"}, {}, "in effect is restore_command = 'true'"),
        ({}, {"test": {"time": 0, "seconds": 0, "error": "", "gate": "1"}}, "never tested"),
        (
            {},
            {"test": {"time": NOW, "seconds": 0, "error": "Permission denied", "gate": ""}},
            "failed: Permission denied (0 s ago)",
        ),
        (
            {},
            {"test": {"time": NOW - 4 * 3600, "seconds": 0, "error": "", "gate": "1"}},
            "not tested for hours: the last time 4 h ago",
        ),
        ({}, {"gap": {"missing": "A", "later": "B", "newest": ""}}, "it holds B, but not A"),
        ({}, {"archive": Archive(2, None, "Permission denied")}, "Barman does not answer it: Permission denied"),
    ],
)
def test_problems(postgres: dict[str, Any], fetcher: dict[str, Any], words: str) -> None:
    (problem,) = row_of(snapshot(0, {}, {}), snapshot(2, postgres, {}, **fetcher)).problems
    assert words in problem


@pytest.mark.parametrize(
    ("fetcher", "words"),
    [
        ({"test": {"time": NOW, "seconds": 0, "error": "", "gate": ""}}, "no gate answered"),
        ({"free_segments": 0}, "no room"),
        (
            {"test": {"time": NOW - 600, "error": "no route", "gate": "1", "is_disproved": True}},
            "its last test failed 10 min ago, but a segment was restored since: no route",
        ),
    ],
)
def test_notes(fetcher: dict[str, Any], words: str) -> None:
    row = row_of(snapshot(0, {}, {}), snapshot(2, {}, {}, **fetcher))
    assert row.problems == ()
    (note,) = row.notes
    assert words in note


@pytest.mark.parametrize("postgres", [{"restore_command": None}, {"restore_command": COMMAND}])
def test_no_problems(postgres: dict[str, Any]) -> None:
    assert row_of(snapshot(0, {}, {}), snapshot(2, postgres, {})).problems == ()


def test_restore_command_with_an_option() -> None:
    expected = "/usr/local/bin/barman-wal-restore -t --spool-dir '/wal/100% full' -p 8 barman angus test pg_wal/test"
    assert status.command_with_option(COMMAND, "-t") == expected
    assert [status.command_with_option(command, "-t") for command in GUARDED] == [expected] * 3


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
    assert status.end_of(segment, size) == end


@pytest.mark.parametrize(
    ("segments", "seen"), [(0, 0), (3, 3), (1024, 1024), (2000, 2000), (20000, status.MOST_PEEKS * 1024)]
)
def test_archive_end(segments: int, seen: int) -> None:
    archive = [status.segment_at((7 + number) * SIZE, 1, SIZE) for number in range(segments)]

    def peek(segment: str) -> list[str]:
        return [name for name in archive if name >= segment][: status.MOST_PEEKED]

    assert status.archive_end(7 * SIZE + 100, 1, SIZE, peek) == (7 + seen) * SIZE


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (9.94 * MIB, "9.9 MiB"),
        (9.96 * MIB, "10 MiB"),
        (999 * MIB, "999 MiB"),
        (1000 * MIB, "1.0 GiB"),
        (1 << 34, "16 GiB"),
        (1 << 44, "16 TiB"),
        (1 << 54, "16384 TiB"),
    ],
)
def test_size(amount: float, text: str) -> None:
    assert table.size(amount) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (119, "119 s"), (120, "2 min"), (7200, "2 h")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def shown(rows: list[Row], starts: "dict[str, int] | None" = None) -> str:
    file = io.StringIO()
    Console(file=file, width=80, no_color=True).print(table.table(rows, starts))
    return file.getvalue()


BUSY = Row(
    standby="chris.example.com",
    server="angus",
    role="restoring",
    lag_bytes=900 * MIB,
    lag_seconds=100.0,
    last_restored="0" * 24,
    spool_segments=8,
    fetch_rate=100 * MIB,
    replay_rate=200 * MIB,
    bottleneck="replay",
    eta=7000.0,
)


def test_table_in_80_columns_without_colour() -> None:
    text = shown([BUSY], {"chris.example.com": 1200 * MIB})
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    for words in ("chris.exa", "mple.com", "restoring", "900 MiB", "replay", "117 min"):
        assert words in text
    assert any("━" in line for line in lines), "the bar"


@pytest.mark.parametrize(
    ("role", "cells"), [("streaming", ["900 MiB", "-"]), ("restoring", ["-", "900 MiB"]), ("down", ["-", "-"])]
)
def test_table_columns_behind_primary_and_behind_barman(role: str, cells: list[str]) -> None:
    first, second, line = shown([BUSY._replace(standby="chris", role=role)]).splitlines()
    starts = [second.index("primary"), second.index("Barman")]
    assert [first[start:].split()[0] for start in starts] == ["behind", "behind"]
    assert [line[start : start + 8].strip() for start in starts] == cells


def test_table_with_problems_below() -> None:
    text = shown([Row("chris", "angus", "down", problems=("asleep",), notes=("slow",))])
    assert "chris: asleep" in text
    assert "chris: slow" in text


def test_aligned_bars_of_several_standbys() -> None:
    rows = [BUSY, BUSY._replace(standby="dora")]
    bars = shown(rows, {row.standby: 1200 * MIB for row in rows}).splitlines()[-2:]
    assert len({bar.index("━") for bar in bars}) == 1


def test_catch_up_start() -> None:
    """Start from the largest lag, until the standby streams again."""
    starts: dict[str, int] = {}
    for lag in (10, 20, 5):
        table.note_starts(starts, [BUSY._replace(lag_bytes=lag)])
    assert starts == {"chris.example.com": 20}
    table.note_starts(starts, [BUSY._replace(role="streaming")])
    assert starts == {}


def test_row_as_json() -> None:
    assert json.loads(json.dumps(BUSY._asdict()))["role"] == "restoring"


def test_inventory_hosts_and_variables(tmp_path: Any) -> None:
    file = tmp_path / "inventory.yml"
    file.write_text(
        "standbys:\n  hosts:\n    chris: {ansible_host: 192.0.2.3, key: '{{ other }}'}\n"
        "  children:\n    far:\n      hosts: {dora: {}}\n"
    )
    inventory = Inventory([str(file)])
    assert inventory.hosts("standbys") == ["chris", "dora"]
    assert inventory.variables("chris") == {"ansible_host": "192.0.2.3"}


def test_access_of_inventory(tmp_path: Any) -> None:
    """Resolve what a playbook would: templates, and nothing where nothing is set."""
    file = tmp_path / "inventory.yml"
    file.write_text(
        "standbys:\n  hosts:\n    chris:\n"
        "    dora: {ansible_ssh_port: 2222, ansible_user: '{{ who }}', who: dba, "
        "ansible_ssh_common_args: '-J {{ inventory_dir }}'}\n"
        "    emil: {ansible_host: '{{ nowhere }}'}\n"
    )
    inventory = Inventory([str(file)])
    inventory.find_access(["chris", "dora", "emil"])
    assert inventory.access("chris")[:4] == ("chris", "", "", "")
    dora = inventory.access("dora")
    assert (dora.host, dora.port, dora.remote_user, dora.ssh_common_args) == ("dora", "2222", "dba", f"-J {tmp_path}")
    with pytest.raises(ConsoleError, match=r"^emil: Ansible does not know how to reach it: .*'nowhere' is undefined"):
        inventory.access("emil")


def test_inventory_unreadable(tmp_path: Any) -> None:
    (tmp_path / "inventory.yml").write_text("standbys: [")
    with pytest.raises(ConsoleError, match="does not know the hosts"):
        Inventory([str(tmp_path / "inventory.yml")])


def test_known_hosts_unreadable(tmp_path: Any) -> None:
    (tmp_path / "inventory.yml").write_text("standbys: {hosts: {chris: }}\n")
    with pytest.raises(ConsoleError, match="known cannot be read: No such file"):
        Host("chris", Inventory([str(tmp_path / "inventory.yml")]), str(tmp_path / "known"), [])


@pytest.fixture(scope="module")
def chris_host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    file = tmp_path_factory.mktemp("inventory") / "inventory.yml"
    file.write_text("standbys: {hosts: {chris: }}\n")
    return Host("chris", Inventory([str(file)]), None, [])


def test_names_of_several_clusters_on_a_host(chris_host: Host) -> None:
    lines = [json.dumps(CHRIS._replace(barman_server=server)._asdict()) for server in ("angus", "bruno")]
    assert [each.name for each in read_clusters(chris_host, lines[0], "")] == ["chris"]
    assert [each.name for each in read_clusters(chris_host, "\n".join(lines), "")] == ["chris/angus", "chris/bruno"]
    (bruno,) = read_clusters(chris_host, "\n".join(lines), "bruno")
    assert (bruno.name, bruno.standby.barman_server) == ("chris/bruno", "bruno")
    with pytest.raises(ConsoleError, match="chris: no cluster is emil, only angus, bruno"):
        read_clusters(chris_host, "\n".join(lines), "emil")


@pytest.mark.parametrize(
    "records",
    [
        "{",
        '{"barman_host": "barman"}',
        "[]",
        "[" * 100_000,
        json.dumps({**CHRIS._asdict(), "spool_dir": 3}),
        json.dumps({**CHRIS._asdict(), "restore_command": "cp %f %p"}),
        json.dumps({**CHRIS._asdict(), "restore_command": """barman-wal-restore -p x barman angus %f "%p\""""}),
        json.dumps({**CHRIS._asdict(), "restore_command": """barman-wal-restore ' barman angus %f "%p\""""}),
    ],
)
def test_standby_json_unreadable(chris_host: Host, records: str) -> None:
    with pytest.raises(ConsoleError, match="deploy again"):
        read_clusters(chris_host, records, "")


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        ("", False),
        ("chris", True),
        ("dora, CHRIS", True),
        ("FIRST 1 (dora, chris)", True),
        ("any 2 (dora, emil)", False),
        ('2 ("chris")', True),
        ("*", True),
        ("christine", False),
    ],
)
def test_synchronous_standby_names(names: str, is_one: bool) -> None:
    assert drill.is_synchronous(names, "chris") is is_one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host=angus port=5433", [("angus", 5433)]),
        ("host=angus", [("angus", 5432)]),
        ("host=angus,dora port=5432,5433", [("angus", 5432), ("dora", 5433)]),
        ("host=angus,dora port=5433", [("angus", 5433), ("dora", 5433)]),
        ("host=angus hostaddr=192.0.2.1", [("192.0.2.1", 5432)]),
        ("application_name=my standby host=angus", [("angus", 5432)]),
        ("channel_binding= host=angus port=", [("angus", 5432)]),
        ("port=5433", [("/", 5433)]),
        ("host=/run/postgresql", [("/run/postgresql", 5432)]),
    ],
)
def test_primaries_in_a_conninfo(text: str, expected: list[tuple[str, int]]) -> None:
    assert drill.primaries(drill.parse_conninfo(text)) == expected


WELL = {"receiver": "streaming", "sent": 100 * MIB, "replayed": 99 * MIB}


PATRONI = "/usr/bin/python3 /usr/bin/patroni /etc/patroni.yml"
AROUND = drill.Surroundings(
    peers=2,
    synchronous="",
    application_name="chris",
    primaries=[("angus", 5432)],
    processes="/sbin/init\npostgres: repmgr repmgr [local] idle",
)


@pytest.mark.parametrize(
    ("postgres", "fetcher", "changes", "words"),
    [
        ({"receiver": None}, {}, {}, "does not stream"),
        ({"replayed": 1 * MIB}, {}, {}, "lags 99 MiB behind"),
        ({}, {"test": {"time": 0, "seconds": 0, "error": "", "gate": "1"}}, {}, "never tested"),
        ({}, {"test": {"time": NOW, "seconds": 0, "error": "no key", "gate": ""}}, {}, "test failed: no key"),
        ({"restore_command": "cp"}, {}, {}, "in effect is restore_command = 'cp'"),
        ({}, {"archive": Archive(2, None, "no route to host")}, {}, "Barman does not answer it: no route to host"),
        ({}, {}, {"peers": 1}, "the only standby"),
        ({}, {}, {"synchronous": "chris"}, "commits may wait for it"),
        ({}, {}, {"primaries": [("/run/postgresql", 5432)]}, "a local socket"),
        ({}, {}, {"processes": "init\n/usr/bin/repmgrd -f /etc/repmgr.conf"}, "repmgrd runs there"),
        ({}, {}, {"processes": PATRONI}, "patroni runs there"),
    ],
)
def test_drill_refusals(postgres: dict[str, Any], fetcher: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    assert list(drill.refusals(CHRIS, snapshot(0, WELL, {}), AROUND)) == []
    (reason,) = drill.refusals(CHRIS, snapshot(0, {**WELL, **postgres}, {}, **fetcher), AROUND._replace(**changes))
    assert words in reason


@pytest.mark.parametrize(
    ("postgres", "processes", "words"),
    [
        ({}, PATRONI, []),
        ({"is_recovering": False}, PATRONI, ["does not stream"]),
        ({}, f"{PATRONI}\n/usr/bin/repmgrd -d", ["repmgrd runs there"]),
    ],
)
def test_drill_with_a_member_of_patroni(postgres: dict[str, Any], processes: str, words: list[str]) -> None:
    """Rehearse with a replica whose Patroni the role has found, not with a leader."""
    member = CHRIS._replace(patroni_file="/etc/patroni/15-main.yml")
    now = snapshot(0, {**WELL, **postgres}, {})
    reasons = list(drill.refusals(member, now, AROUND._replace(processes=processes)))
    assert [word in reason for word, reason in zip(words, reasons, strict=True)] == [True] * len(words)


@pytest.mark.parametrize("text", ["host=angus port=x", "host=angus port=0", "host=a,b,c port=1,2", "host=a port=65536"])
def test_primaries_not_understood(text: str) -> None:
    with pytest.raises(ConsoleError, match="not understood: it streams from port"):
        drill.primaries(drill.parse_conninfo(text))


def test_partition_rules() -> None:
    text = partition.rules([("192.0.2.1", 5432), ("2001:db8::1", 5433)], "postgres")
    assert 'ip daddr 192.0.2.1 tcp dport 5432 meta skuid "postgres" reject with tcp reset' in text
    assert 'ip6 daddr 2001:db8::1 tcp dport 5433 meta skuid "postgres" reject with tcp reset' in text


@pytest.mark.parametrize(("position", "size", "name"), [(0, SIZE, "0" * 8), ((1 << 32) + SIZE, SIZE, "00000001")])
def test_segment_at_a_position(position: int, size: int, name: str) -> None:
    segment = status.segment_at(position, 2, size)
    assert segment[:16] == f"00000002{name}"
    assert status.end_of(segment, size) - size <= position < status.end_of(segment, size)


def evidence_of_a_drill() -> Evidence:
    samples = [
        Sample(
            moment=float(second),
            is_streaming=second < 2 or second > 8,
            replayed=(1 + second) * SIZE,
            primary=(2 + second) * SIZE,
            archived=None,
            restored=second,
        )
        for second in range(11)
    ]
    return Evidence(
        standby="chris",
        barman_server="angus",
        barman_host="barman",
        version="15.1",
        restore_command=COMMAND,
        began=NOW,
        marker="a marker",
        goal=9 * SIZE,
        segments=[],
        phases=[Phase("streaming is interrupted", 0, 2), Phase("the standby restores <b>", 2, 8)],
        samples=samples,
    )


def test_single_page_report() -> None:
    """Refer to no other file."""
    page = report.html(evidence_of_a_drill())
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "&lt;b&gt;" in page
    assert page.count("<polyline") == 2, "nothing is drawn of which nothing is known"
    assert "0/9000000" in page
    assert page.count("<circle") == 10, "one was restored before each sample but the first"


def test_report_points_inside_the_picture() -> None:
    evidence = evidence_of_a_drill()
    for line in report.polylines(evidence, report.Scale(evidence.samples)):
        for point in line.points.split():
            x, y = map(float, point.split(","))
            assert report.LEFT <= x <= report.WIDTH
            assert 0 <= y <= report.HEIGHT - report.BOTTOM


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


def rows_of(answer: str) -> list[Row]:
    """Return the rows of two standbys, of which the first gives this answer."""
    well = snapshot(0, {}, {})
    hosts = [
        Answering({"standby.json": RECORD, "--status": text, "get-wal": ""})
        for text in (answer, f"{json.dumps(well.postgres)}\n{json.dumps(well.fetcher)}\n")
    ]
    hosts[1].name = "dora"
    fleet = SimpleNamespace(standbys=hosts, clusters_on=lambda host: read_clusters(host, RECORD, ""))
    with status.Survey(fleet) as survey:  # type: ignore[arg-type]
        survey.rows()
        return survey.rows()


class Pausing(Answering):
    """Answer well, or not at all, when a test lets it."""

    def __init__(self, name: str, is_well: bool = True) -> None:
        well = snapshot(0, {}, {})
        super().__init__({"--status": f"{json.dumps(well.postgres)}\n{json.dumps(well.fetcher)}\n", "get-wal": ""})
        self.name = name
        self.is_well = is_well
        self.may_answer = threading.Event()

    def run(self, *words: str, **how: Any) -> str:
        self.asked.append("")
        assert self.may_answer.wait(20)
        if not self.is_well:
            raise ConsoleError(f"{self.name}: Connection timed out")
        return super().run(*words, **how)


def survey_of(hosts: "list[Pausing]", patience: "float | None" = None) -> status.Survey:
    fleet = SimpleNamespace(standbys=hosts, clusters_on=lambda host: read_clusters(host, RECORD, ""))
    return status.Survey(fleet, patience)  # type: ignore[arg-type]


def roles(rows: list[Row]) -> dict[str, str]:
    return {row.standby: row.role for row in rows}


def test_survey_side_by_side() -> None:
    """Ask as many standbys at once as may be, and no more."""
    hosts = [Pausing(f"h{number}") for number in range(status.MOST_ASKED + 5)]
    with survey_of(hosts) as survey, ThreadPoolExecutor() as pool:
        rows = pool.submit(survey.rows)
        wait_until(lambda: sum(len(host.asked) for host in hosts) == status.MOST_ASKED, "all the first")
        time.sleep(0.1)
        assert sum(len(host.asked) for host in hosts) == status.MOST_ASKED
        for host in hosts:
            host.may_answer.set()
        assert list(roles(rows.result(20))) == [host.name for host in hosts]
    assert set(roles(rows.result()).values()) == {"restoring"}


def test_survey_of_what_is_down() -> None:
    """Ask a standby that is down again, but not in each round."""
    well, down = hosts = [Pausing("chris"), Pausing("dora", is_well=False)]
    for host in hosts:
        host.may_answer.set()
    with survey_of(hosts) as survey:
        for _ in range(3):
            assert roles(survey.rows()) == {"chris": "restoring", "dora": "down"}
        assert len(down.asked) == 1
        assert len(well.asked) > 2
        survey._failed_at["dora"] -= status.RETRY_INTERVAL
        down.is_well = True
        assert roles(survey.rows()) == {"chris": "restoring", "dora": "restoring"}


def test_survey_with_patience() -> None:
    """Wait for a silent standby once, and show it again when it answers."""
    well, silent = hosts = [Pausing("chris"), Pausing("dora")]
    well.may_answer.set()
    with survey_of(hosts, patience=0.5) as survey:
        first, second = survey.rows(), None
        assert roles(first) == {"chris": "restoring", "dora": "down"}
        assert "has not answered" in first[1].problems[0]
        began = time.monotonic()
        second = survey.rows()
        assert (roles(second), time.monotonic() - began < 0.4) == (roles(first), True)
        silent.may_answer.set()
        wait_until(lambda: roles(survey.rows())["dora"] == "restoring", "an answer", step=0.05)
        silent.may_answer.clear()
        assert roles(survey.rows())["dora"] == "down"
        silent.may_answer.set()


@pytest.mark.parametrize(("held", "seconds"), [(0.05, 0.3), (1.5, 2.5)])
def test_throttle(held: float, seconds: float) -> None:
    """Let two in at a time, and more when these two take longer than they should."""
    throttle = status.Throttle(2, 0.5)
    inside: list[int] = []

    def enter(_: int) -> int:
        with throttle.place("barman"):
            inside.append(0)
            seen = len(inside)
            time.sleep(held)
            inside.pop()
        return seen

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool, throttle.place("barman2"):
        most = max(pool.map(enter, range(6)))
    assert (most <= 2) == (held < 0.5)
    assert abs(time.monotonic() - began - seconds) < 1


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


@given(answers() | st.text() | st.sampled_from(["", HOSTILE, "[]\n[]", "[" * 100_000, "{}\n{}", "1e999\n1e999"]))
@settings(max_examples=300)
def test_any_answer_costs_its_own_row(answer: str) -> None:
    chris, dora = rows_of(answer)
    assert (chris.standby, dora.standby, dora.role, dora.problems) == ("chris", "dora", "restoring", ())
    if chris.role == "down":
        assert chris.problems[0].startswith("not understood: ")
    json.dumps(chris._asdict(), allow_nan=False)
    text = shown([chris, dora], {"chris": 1, "dora": 1})
    assert FORBIDDEN.search(text) is None
    assert len(text) < 20_000


@given(answers())
@settings(max_examples=100)
def test_any_answer_in_a_drill(answer: str) -> None:
    around = drill.Surroundings(2, "", "chris", [("angus", 5432)], "")
    try:
        postgres, fetcher = parse_snapshot("chris", answer)
    except NotUnderstood:
        return
    for reason in drill.refusals(CHRIS, Snapshot(0, postgres, fetcher), around):
        assert isinstance(reason, str)


@given(st.text())
def test_printable(text: str) -> None:
    shown_text = printable(text)
    assert FORBIDDEN.search(shown_text) is None
    assert "\n" not in shown_text
    assert printable(shown_text) == shown_text


def test_errors_are_printable() -> None:
    assert FORBIDDEN.search(str(ConsoleError(HOSTILE))) is None
    assert len(str(ConsoleError("x" * 10_000))) == 1000


def test_table_takes_no_markup() -> None:
    text = shown([BUSY._replace(standby="[red]x[/]", problems=(HOSTILE,), last_restored="[/]")], {"[red]x[/]": 1 << 40})
    assert "[link=http://x]:smile:" in text.replace("\n", "")
    assert "[red]x[/]" in text
    assert FORBIDDEN.search(text) is None


def test_report_of_hostile_standby() -> None:
    evidence = evidence_of_a_drill()._replace(standby=HOSTILE, restore_command=HOSTILE, segments=[HOSTILE])
    assert FORBIDDEN.search(report.html(evidence)) is None


@pytest.mark.parametrize("name", ["x/;1e id>/tmp/proof;#.localhost", "a b", "$(id)", "", "ä", "a\n"])
def test_strange_name_of_a_primary(name: str) -> None:
    cluster = Cluster("chris", Answering({"": ""}), CHRIS)
    with pytest.raises(NotUnderstood, match="chris: not understood: it streams from a host called"):  # noqa: SIM117
        with partition.partition(cluster, [(name, 5432)], 30, print):
            raise AssertionError
    assert cluster.host.asked == [], "nothing was run"  # type: ignore[attr-defined]


def test_strange_address_of_a_primary() -> None:
    host = Answering({"getent": '192.0.2.1 STREAM angus\n1}; add rule x "y" STREAM angus\n'})
    with pytest.raises(NotUnderstood, match="not understood: getent ahosts angus"):  # noqa: SIM117
        with partition.partition(Cluster("chris", host, CHRIS), [("angus", 5432)], 30, print):
            raise AssertionError
    assert len(host.asked) == 1


@pytest.mark.parametrize("text", ["", "x", "-1", "1e5", "٣", "9" * 5000, "1\n2"])
def test_number_not_understood(text: str) -> None:
    with pytest.raises(NotUnderstood, match="instead of a number"):
        parse_count("chris", text)


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("", "chris: ssh ended without a word"),
        (
            "banner\nssh: connect to host x port 22: Connection refused\n",
            "chris: ssh: connect to host x port 22: Connection refused",
        ),
        (
            "No ED25519 host key is known for x and you have requested strict checking.\n"
            "Host key verification failed.\n",
            "chris: host key not known: No ED25519 host key is known for x and you have requested strict checking. "
            "Put it into known_hosts, or name a file that has it with --known-hosts",
        ),
        (
            "@@@\nHost key for x has changed and you have requested strict checking.\nHost key verification failed.\n",
            "chris: host key not known: Host key for x has changed and you have requested strict checking. "
            "Find out why, before you change known_hosts",
        ),
    ],
)
def test_login_errors(stderr: str, error: str) -> None:
    assert str(login_error("chris", stderr)) == error


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
            status._peek(cluster, "0" * 24)
    else:
        assert status._peek(cluster, "0" * 24) == names
    assert seen == asked
