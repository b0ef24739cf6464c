import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from console import cut, drill, report, standing, table
from console.drill import Evidence, Phase, Sample
from console.hosts import Host, Inventory, Standby, Trouble, clusters
from console.standing import Archive, Look, Row

MIB = 1 << 20
SIZE = 16 * MIB
COMMAND = "/usr/local/bin/barman-wal-restore --spool-dir '/wal/100%% full' -p 8 barman angus %f %p"
CHRIS = Standby("barman", "angus", "/var/lib/postgresql/15/main", "postgres", "/wal/100% full", COMMAND)
NOW = 1_800_000_000.0


def a_look(
    moment: float, server: dict[str, Any], record: dict[str, Any], archive: Archive = standing.NEVER, **status: Any
) -> Look:
    return Look(
        moment,
        {
            "is_recovering": True,
            "replayed": 0,
            "replayed_at": NOW - 60,
            "now": NOW,
            "receiver": None,
            "sent": None,
            "restore_command": COMMAND,
            "segment_size": SIZE,
            **server,
        },
        {
            "record": {"bytes": 0, "waited": 0.0, "last_segment": "", **record},
            "basin": [],
            "room": 40,
            "test": {"time": NOW - 600, "seconds": 0.5, "error": "", "gate": "1"},
            **status,
        },
        archive,
    )


def a_row(before: Look, after: Look) -> Row:
    return standing.row("chris", CHRIS, before, after)


def test_a_standby_that_streams() -> None:
    server = {"receiver": "streaming", "sent": 5 * MIB, "replayed": 3 * MIB}
    row = a_row(a_look(0, server, {}), a_look(2, server, {}))
    assert (row.role, row.lag_bytes, row.lag_seconds) == (standing.STREAMING, 2 * MIB, 60)
    assert (row.fetch_rate, row.replay_rate, row.bottleneck, row.eta) == (None, None, "", None)
    assert row.problems == ()
    assert row.test_age == 600


def test_one_that_has_everything_is_not_behind_however_quiet_its_primary() -> None:
    server = {"receiver": "streaming", "sent": 5 * MIB, "replayed": 5 * MIB}
    row = a_row(a_look(0, server, {}), a_look(2, server, {}))
    assert (row.lag_bytes, row.lag_seconds) == (0, None)


@pytest.mark.parametrize(("waited", "bottleneck"), [(1.9, "fetch"), (0.1, "replay")])
def test_one_that_restores(waited: float, bottleneck: str) -> None:
    basin = [f"0000000100000000000000{number:02X}" for number in (4, 5)]
    before = a_look(0, {"replayed": 1 * SIZE}, {"bytes": SIZE}, basin=basin[:1])
    after = a_look(2, {"replayed": 3 * SIZE}, {"bytes": 3 * SIZE, "waited": waited}, Archive(2, 43 * SIZE), basin=basin)
    row = a_row(before, after)
    assert (row.role, row.basin, row.bottleneck) == (standing.RESTORING, 2, bottleneck)
    assert row.fetch_rate == 1.5 * SIZE, "two were handed over, and one more lies in the basin, in two seconds"
    assert row.replay_rate == SIZE
    assert row.lag_bytes == 40 * SIZE, "to the end of the archive, not of the basin"
    assert row.eta == 40


def test_where_nothing_is_counted_nothing_is_said_of_rates() -> None:
    direct = CHRIS._replace(restore_command=COMMAND.replace("-p 8", "-p 1"))
    row = standing.row("chris", direct, a_look(0, {}, {}), a_look(2, {"replayed": SIZE}, {}))
    assert (row.fetch_rate, row.replay_rate, row.bottleneck) == (None, SIZE / 2, "")


def test_a_primary_that_has_become_a_standby_is_seen_from_then_on() -> None:
    row = a_row(a_look(0, {"is_recovering": False, "replayed": None}, {}), a_look(2, {"replayed": SIZE}, {}))
    assert (row.role, row.replay_rate) == (standing.RESTORING, 0)


def test_one_that_stands_still_has_no_eta() -> None:
    row = a_row(a_look(0, {}, {}), a_look(2, {}, {}))
    assert (row.role, row.lag_bytes, row.eta, row.bottleneck) == (standing.RESTORING, None, None, "")


def test_a_primary_is_a_problem() -> None:
    row = a_row(a_look(0, {}, {}), a_look(2, {"is_recovering": False}, {}))
    assert (row.role, len(row.problems)) == (standing.PRIMARY, 1)


@pytest.mark.parametrize(
    ("server", "status", "words"),
    [
        ({"restore_command": "true"}, {}, "in effect is restore_command = 'true'"),
        ({}, {"test": {"time": 0, "seconds": 0, "error": "", "gate": "1"}}, "never tested"),
        (
            {},
            {"test": {"time": NOW, "seconds": 0, "error": "Permission denied", "gate": ""}},
            "failed: Permission denied",
        ),
        ({}, {"test": {"time": NOW - 4 * 3600, "seconds": 0, "error": "", "gate": "1"}}, "not tested for hours"),
        ({}, {"archive": Archive(2, None, "Permission denied")}, "Barman does not answer it: Permission denied"),
    ],
)
def test_what_is_wrong_is_said(server: dict[str, Any], status: dict[str, Any], words: str) -> None:
    (problem,) = a_row(a_look(0, {}, {}), a_look(2, server, {}, **status)).problems
    assert words in problem


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"test": {"time": NOW, "seconds": 0, "error": "", "gate": ""}}, "no gate answered"),
        ({"room": 0}, "no room"),
    ],
)
def test_what_makes_it_slower_is_noted(status: dict[str, Any], words: str) -> None:
    row = a_row(a_look(0, {}, {}), a_look(2, {}, {}, **status))
    assert row.problems == ()
    (note,) = row.notes
    assert words in note


@pytest.mark.parametrize("server", [{"restore_command": None}, {"restore_command": COMMAND}])
def test_what_is_right_is_not_mentioned(server: dict[str, Any]) -> None:
    assert a_row(a_look(0, {}, {}), a_look(2, server, {})).problems == ()


def test_a_restore_command_is_called_for_no_file() -> None:
    expected = "/usr/local/bin/barman-wal-restore -t --spool-dir '/wal/100% full' -p 8 barman angus test pg_wal/test"
    assert standing.asking(COMMAND, "-t") == expected


def test_what_a_restore_command_says_of_an_option() -> None:
    assert [CHRIS.option(name) for name in ("-p", "--spool-dir", "-c")] == ["8", "/wal/100% full", ""]


@pytest.mark.parametrize(
    ("segment", "size", "end"),
    [
        ("000000010000000000000000", SIZE, SIZE),
        ("0000000100000000000000FF", SIZE, 1 << 32),
        ("000000020000000100000000", SIZE, (1 << 32) + SIZE),
        ("00000001000000000000000F", 256 * MIB, 1 << 32),
    ],
)
def test_where_a_segment_ends(segment: str, size: int, end: int) -> None:
    assert standing.end_of(segment, size) == end


@pytest.mark.parametrize(
    ("segments", "seen"), [(0, 0), (3, 3), (1024, 1024), (2000, 2000), (20000, standing.MOST_PEEKS * 1024)]
)
def test_an_archive_is_followed_to_its_end(segments: int, seen: int) -> None:
    archive = [standing.segment_at((7 + number) * SIZE, 1, SIZE) for number in range(segments)]

    def peek(segment: str) -> list[str]:
        return [name for name in archive if name >= segment][: standing.MOST_PEEKED]

    assert standing.archive_end(7 * SIZE + 100, 1, SIZE, peek) == (7 + seen) * SIZE


@pytest.mark.parametrize(
    ("amount", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (16 * MIB, "16 MiB"), (1 << 34, "16 GiB"), (1 << 44, "16 TiB")],
)
def test_sizes(amount: float, text: str) -> None:
    assert table.size(amount) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (119, "119 s"), (120, "2 min"), (7200, "2 h")])
def test_durations(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text


def shown(rows: list[Row], starts: "dict[str, int] | None" = None) -> str:
    file = io.StringIO()
    Console(file=file, width=80, no_color=True).print(table.table(rows, starts))
    return file.getvalue()


BUSY = Row(
    "chris.example.com", "angus", "restoring", 1000 * MIB, 100.0, "0" * 24, 8, 100 * MIB, 1000 * MIB, "replay", 7000.0
)


def test_the_table_is_readable_in_80_columns_without_colour() -> None:
    text = shown([BUSY], {"chris.example.com": 1200 * MIB})
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    for words in ("chris.example.c", "om", "restoring", "1000 MiB", "replay", "117 min"):
        assert words in text
    assert any("━" in line for line in lines), "the bar"


def test_problems_stand_below_the_table() -> None:
    text = shown([Row("chris", "angus", "down", problems=("asleep",), notes=("slow",))])
    assert "chris: asleep" in text
    assert "chris: slow" in text


def test_a_catch_up_begins_at_its_largest_lag() -> None:
    starts: dict[str, int] = {}
    for lag in (10, 20, 5):
        table.note_starts(starts, [BUSY._replace(lag_bytes=lag)])
    assert starts == {"chris.example.com": 20}
    table.note_starts(starts, [BUSY._replace(role="streaming")])
    assert starts == {}


def test_a_row_is_json() -> None:
    assert json.loads(json.dumps(BUSY._asdict()))["role"] == "restoring"


def test_hosts_are_the_inventorys(tmp_path: Any) -> None:
    file = tmp_path / "inventory.yml"
    file.write_text(
        "standbys:\n  hosts:\n    chris: {ansible_host: 192.0.2.3, key: '{{ other }}'}\n"
        "  children:\n    far:\n      hosts: {dora: {}}\n"
    )
    inventory = Inventory([str(file)])
    assert inventory.hosts("standbys") == ["chris", "dora"]
    assert inventory.variables("chris") == {"ansible_host": "192.0.2.3"}


def test_an_inventory_that_is_none(tmp_path: Any) -> None:
    (tmp_path / "inventory.yml").write_text("standbys: [")
    with pytest.raises(Trouble, match="does not know the hosts"):
        Inventory([str(tmp_path / "inventory.yml")])


@pytest.mark.parametrize("text", [None, "angus ssh-rsa A\n"])
def test_known_hosts_that_cannot_be_read(tmp_path: Any, text: "str | None") -> None:
    if text is not None:
        (tmp_path / "known").write_text(text)
    (tmp_path / "inventory.yml").write_text("standbys: {hosts: {chris: }}\n")
    with pytest.raises(Trouble, match="known cannot be read"):
        Host("chris", Inventory([str(tmp_path / "inventory.yml")]), str(tmp_path / "known"), [])


def a_host(tmp_path: Any) -> Host:
    (tmp_path / "inventory.yml").write_text("standbys: {hosts: {chris: }}\n")
    return Host("chris", Inventory([str(tmp_path / "inventory.yml")]), None, [])


def test_several_clusters_on_a_host_are_told_apart(tmp_path: Any) -> None:
    host = a_host(tmp_path)
    lines = [json.dumps(CHRIS._replace(barman_server=server)._asdict()) for server in ("angus", "bruno")]
    assert [each.name for each in clusters(host, lines[0], "")] == ["chris"]
    assert [each.name for each in clusters(host, "\n".join(lines), "")] == ["chris/angus", "chris/bruno"]
    (bruno,) = clusters(host, "\n".join(lines), "bruno")
    assert (bruno.name, bruno.standby.barman_server) == ("chris/bruno", "bruno")
    with pytest.raises(Trouble, match="chris: no cluster is emil, only angus, bruno"):
        clusters(host, "\n".join(lines), "emil")


@pytest.mark.parametrize("said", ["{", '{"barman_host": "barman"}', "[]"])
def test_what_the_role_has_not_written(tmp_path: Any, said: str) -> None:
    with pytest.raises(Trouble, match="deploy again"):
        clusters(a_host(tmp_path), said, "")


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
def test_synchronous_standbys(names: str, is_one: bool) -> None:
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
def test_where_a_standby_streams_from(text: str, expected: list[tuple[str, int]]) -> None:
    assert drill.sources(drill.conninfo(text)) == expected


WELL = {"receiver": "streaming", "sent": 100 * MIB, "replayed": 99 * MIB}


@pytest.mark.parametrize(
    ("server", "status", "changes", "words"),
    [
        ({"receiver": None}, {}, {}, "does not stream"),
        ({"replayed": 1 * MIB}, {}, {}, "lags 99 MiB behind"),
        ({}, {"test": {"time": 0, "seconds": 0, "error": "", "gate": "1"}}, {}, "never tested"),
        ({}, {"test": {"time": NOW, "seconds": 0, "error": "no key", "gate": ""}}, {}, "test failed: no key"),
        ({"restore_command": "cp"}, {}, {}, "in effect is restore_command = 'cp'"),
        ({}, {"archive": Archive(2, None, "no route to host")}, {}, "Barman does not answer it: no route to host"),
        ({}, {}, {"peers": 1}, "the only standby"),
        ({}, {}, {"synchronous": "chris"}, "commits may wait for it"),
        ({}, {}, {"sources": [("/run/postgresql", 5432)]}, "a local socket"),
        ({}, {}, {"processes": "init\n/usr/bin/repmgrd -f /etc/repmgr.conf"}, "repmgrd runs there"),
        ({}, {}, {"processes": "/usr/bin/python3 /usr/bin/patroni /etc/patroni.yml"}, "patroni runs there"),
    ],
)
def test_when_there_is_no_drill(
    server: dict[str, Any], status: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    around = drill.Surroundings(2, "", "chris", [("angus", 5432)], "/sbin/init\npostgres: repmgr repmgr [local] idle")
    assert list(drill.refusals(CHRIS, a_look(0, WELL, {}), around)) == []
    (reason,) = drill.refusals(CHRIS, a_look(0, {**WELL, **server}, {}, **status), around._replace(**changes))
    assert words in reason


def test_only_the_servers_own_way_to_its_primary_is_cut() -> None:
    text = cut.rules([("192.0.2.1", 5432), ("2001:db8::1", 5433)], "postgres")
    assert 'ip daddr 192.0.2.1 tcp dport 5432 meta skuid "postgres" reject with tcp reset' in text
    assert 'ip6 daddr 2001:db8::1 tcp dport 5433 meta skuid "postgres" reject with tcp reset' in text


@pytest.mark.parametrize(("position", "size", "name"), [(0, SIZE, "0" * 8), ((1 << 32) + SIZE, SIZE, "00000001")])
def test_the_segment_at_a_position(position: int, size: int, name: str) -> None:
    segment = standing.segment_at(position, 2, size)
    assert segment[:16] == f"00000002{name}"
    assert standing.end_of(segment, size) - size <= position < standing.end_of(segment, size)


def an_evidence() -> Evidence:
    samples = [
        Sample(float(second), second < 2 or second > 8, (1 + second) * SIZE, (2 + second) * SIZE, None, second)
        for second in range(11)
    ]
    phases = [Phase("streaming is interrupted", 0, 2), Phase("the standby restores <b>", 2, 8)]
    return Evidence("chris", "angus", "barman", "15.1", COMMAND, NOW, "a marker", 9 * SIZE, [], phases, samples)


def test_the_report_is_one_page_that_needs_nothing_else() -> None:
    page = report.html(an_evidence())
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "&lt;b&gt;" in page
    assert page.count("<polyline") == 2, "nothing is drawn of which nothing is known"
    assert "0/9000000" in page
    assert page.count("<circle") == 10, "one was restored before each sample but the first"


def test_the_picture_has_all_points_inside() -> None:
    evidence = an_evidence()
    for line in report.lines(evidence, report.Scale(evidence.samples)):
        for point in line.points.split():
            x, y = map(float, point.split(","))
            assert report.LEFT <= x <= report.WIDTH
            assert 0 <= y <= report.HEIGHT - report.BOTTOM
