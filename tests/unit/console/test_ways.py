"""Test which ways back a standby is told of."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Optional

import pytest
from walbasin.local import data_directory

from console import ways
from console.hosts import Standby
from console.snapshot import FIND_POSTGRES
from console.status import ABANDONED, Row, is_stuck
from console.text import ConsoleError, NotUnderstood
from console.ways import Facts
from tests.support.console_standby import CHRIS
from tests.support.role_templar import value_of
from tests.support.wal_builder import OURS, build_data_directory

MIB, GIB = 1 << 20, 1 << 30
KNOWN = Facts(
    role="restoring",
    behind=600 * MIB,
    replay_rate=10 * MIB,
    timeline=1,
    primary_timeline=1,
    version=15,
    backup_size=100 * GIB,
    backup_rate=100 * MIB,
    wal_since_backup=10 * GIB,
)
GAP = "the archive has a gap: it holds 000000010000000000000009, but not 000000010000000000000007"


DIVERGED = {"role": "primary", "timeline": 2, "diverged_at": 0x1_0000_00A0, "written": 3 * GIB}


def shown(standby: Standby = CHRIS, **changes: Any) -> List[str]:
    facts = KNOWN._replace(**changes)
    return ways.describe("chris", facts, ways.find_ways(facts, "chris", standby))


def test_standby_that_catches_up() -> None:
    lines = shown()
    assert lines[0] == "chris comes back by itself, in about 60 s"
    assert lines[1] == "  1. wait: 600 MiB from Barman, 60 s"
    assert lines[2] == "  2. pg_rewind: will not do: it has not diverged, so there is nothing to rewind"
    assert lines[3] == "  3. rebuild: 110 GiB from Barman, 34 min"
    assert lines[4] == "     ansible-playbook walbasin.barman.rebuild -e rebuild_standby=chris"
    assert lines[5] == "  4. base backup: 100 GiB from the primary, 17 min"


@pytest.mark.parametrize(
    ("changes", "first", "possible"),
    [
        ({}, "comes back by itself, in about 60 s", ["wait", "rebuild", "base backup"]),
        ({"replay_rate": None}, "chris comes back by itself", ["wait", "rebuild", "base backup"]),
        ({"role": "streaming"}, "chris is well (streaming)", ["wait", "rebuild", "base backup"]),
        ({"gap": GAP}, f"cannot come back by itself: {GAP}", ["rebuild", "base backup"]),
        (
            DIVERGED,
            "cannot come back by itself: it has left the primary's history at 1/A0 (it is on timeline 2, the",
            ["pg_rewind", "rebuild", "base backup"],
        ),
        ({"role": "primary"}, "chris is well (primary)", []),
        ({"role": "down", "error": "it does not run"}, "chris could not be asked: it", ["rebuild", "base backup"]),
        ({"gap": GAP, "backup_error": "it has no backup"}, "cannot come back", ["base backup"]),
        # Nobody can say whether its data are nowhere else; or there are none.
        ({"gap": GAP, "primary_timeline": 0}, "cannot come back", []),
        ({"gap": GAP, "primary_timeline": 0, "timeline": 0}, "cannot come back", ["rebuild"]),
        ({**DIVERGED, "is_ahead": True}, "it has left the primary's history at 1/A0", []),
        ({"slot": "chris\n||"}, "by itself: the primary has no slot chris", ["rebuild", "base backup"]),
        # Its server does not run, and its data directory tells.
        (
            {**DIVERGED, "role": "down", "error": "it does not run"},
            "cannot come",
            ["pg_rewind", "rebuild", "base backup"],
        ),
        ({**DIVERGED, "version": 12}, "cannot come back", ["rebuild", "base backup"]),
    ],
)
def test_possible_ways(changes: Dict[str, Any], first: str, possible: List[str]) -> None:
    facts = KNOWN._replace(**changes)
    found = ways.find_ways(facts, "chris", CHRIS)
    assert [way.name for way in found] == ["wait", "pg_rewind", "rebuild", "base backup"]
    assert [way.name for way in found if not way.obstacle] == possible
    assert first in ways.describe("chris", facts, found)[0]


@pytest.mark.parametrize(
    ("data", "version", "config"),
    [
        ("/var/lib/postgresql/15/main", 15, " --config-file=/etc/postgresql/15/main/postgresql.conf"),
        ("/var/lib/postgresql/14/main", 14, ""),
        ("/var/lib/pgsql/15/data", 15, ""),
    ],
)
def test_rewind(data: str, version: int, config: str) -> None:
    lines = shown(CHRIS._replace(data_directory=data), **DIVERGED, **{"version": version})
    assert lines[2] == "  2. pg_rewind: 3.0 GiB from the primary and Barman, at most, 31 s"
    assert lines[3].split(" --restore-target-wal")[0] == f"     pg_rewind -D {data}{config}"


def test_member_of_patroni() -> None:
    lines = shown(CHRIS._replace(patroni_file="/etc/patroni/main.yml"), **DIVERGED)
    assert lines[1:] == [
        f"  1. wait: will not do: {lines[0].removeprefix('chris cannot come back by itself: ')}",
        "  2. pg_rewind: will not do: Patroni does that by itself, where use_pg_rewind is on",
        "  3. rebuild: will not do: Patroni manages it",
        "  4. reinit: 100 GiB from the primary, 17 min",
        "     patronictl -c /etc/patroni/main.yml reinit CLUSTER MEMBER",
    ]
    named = shown(CHRIS._replace(patroni_file="/etc/patroni/main.yml"), **DIVERGED, member="15-main chris")
    assert named[-1].endswith(" reinit 15-main chris")


@pytest.mark.parametrize(
    ("printed", "first", "second"),
    [
        ("", "chris comes back by itself", "  1. wait: 600 MiB"),
        ("chris\nphysical|0/3000000|1\n", "chris comes back by itself", "  1. wait: 600 MiB"),
        ("chris\n||\n", "chris cannot come back by itself: the primary has no slot chris", "  1. wait: will not do"),
        ("chris\nphysical||\n", "chris comes back by itself", "the primary keeps no WAL for its slot chris: it is"),
    ],
)
def test_slot(printed: str, first: str, second: str) -> None:
    lines = shown(CHRIS, slot=printed)
    assert lines[0].startswith(first)
    assert lines[1].startswith(second)


@pytest.mark.parametrize(
    ("conninfo", "primary"),
    [
        ("host=angus port=5433 user=repl password=secret", "host=angus port=5433"),
        ("user=repl password='it''s host=x' host='angus.example.org'", "host=angus.example.org"),
        (r"password='a\' host=x' host=angus,bon port=1,2", "host=angus,bon port=1,2"),
        (r"host=angus password=ab\ host=secret", "host=angus"),
        ("application_name='x password=' host=angus", "host=angus"),
        ("host=angus port='54 32'", "host=PRIMARY"),
        ("service=angus password=host=x", "host=PRIMARY"),
        ("", "host=PRIMARY"),
    ],
)
def test_primary_without_password(conninfo: str, primary: str) -> None:
    assert ways.parse_primary(conninfo) == primary
    assert f"--source-server='{primary} user=postgres'" in shown(CHRIS, primary=primary, **DIVERGED)[3]


def test_host_that_does_not_answer() -> None:
    row = Row("chris", "", "down", problems=("Connection timed out",))
    fleet: Any = None
    assert ways.lines_of(fleet, None, row) == ["chris could not be asked: Connection timed out"]


WHOLE = {"missing": "", "behind": 0, "abandoned": 0}


def found(**changes: Any) -> Dict[str, Any]:
    return {
        "backup": {"size": GIB, "rate": 1000, "version": 15},
        "wal": {"bytes": 32 * MIB, **WHOLE},
        "primary": {"timeline": 1, "lsn": 50},
        "divergence": {"at": 0, "is_ahead": False},
        **changes,
    }


AT = {"timeline": 1, "lsn": 40, "history": []}


def test_facts() -> None:
    row = Row("chris", "angus", "restoring", lag_bytes=5, replay_rate=2.0, problems=("the last test failed", GAP))
    facts = ways.facts_of(row, AT, found())
    assert (facts.behind, facts.replay_rate, facts.gap, facts.error) == (5, 2.0, GAP, "")
    assert (facts.backup_size, facts.wal_since_backup, facts.primary_timeline) == (GIB, 32 * MIB, 1)
    assert ways.facts_of(row, AT, found(primary=None)).primary_timeline == 0
    gap = ways.facts_of(row, AT, found(wal={"bytes": 1, **WHOLE, "missing": "000000010000000000000007"}))
    assert gap.backup_error == "the archive has a gap behind its backup: 000000010000000000000007"
    late = ways.facts_of(row, AT, found(wal={"bytes": 1, **WHOLE, "behind": 2 * GIB}))
    assert late.backup_error == "the archive ends 2.0 GiB before the primary"
    abandoned = ways.facts_of(row, AT, found(wal={"bytes": 1, **WHOLE, "abandoned": 2}))
    assert abandoned.backup_error == "the archive holds timeline 2, which the primary is not on"
    diverged = ways.facts_of(row, AT, found(divergence={"at": 30, "is_ahead": False}))
    assert (diverged.diverged_at, diverged.written, diverged.version) == (30, 10 + 20, 15)
    assert ways.facts_of(row, AT, {"error": "it has no backup"}).backup_error == "it has no backup"
    left = Row("chris", "angus", "restoring", problems=(f"{ABANDONED} 2, which it cannot follow",))
    assert ways.facts_of(left, AT, found()).gap == f"{ABANDONED} 2, which it cannot follow"
    down = Row("chris", "angus", "down", problems=("it does not run",))
    assert ways.facts_of(down, ways.NOWHERE, found()).error == "it does not run"


def cluster(printed: str) -> Any:
    return SimpleNamespace(
        host=SimpleNamespace(name="chris", run=lambda *_, **__: printed),
        standby=SimpleNamespace(
            data_directory="/data", postgres_user="postgres", barman_server="angus", barman_host="barman"
        ),
    )


def test_position() -> None:
    assert ways.find_position(cluster("3\n5000\n1|0|A0\n2|1|B0\n")) == {
        "timeline": 3,
        "lsn": 5000,
        "history": [(1, 0xA0), (2, (1 << 32) + 0xB0)],
    }


def test_position_of_stopped_server(tmp_path: Path) -> None:
    """Read it from the data directory, with the role's script."""
    data = build_data_directory(tmp_path / "main", 15, OURS)

    def run(*words: str, stdin: str, **_: Any) -> str:
        return subprocess.run(words, input=stdin, capture_output=True, text=True, check=True).stdout

    chris = cluster("")
    chris.standby.data_directory, chris.host.run = str(data), run
    control = data_directory.read(str(data))
    assert control is not None
    expected = max(data_directory.read_positions(control))
    assert ways.find_stopped_position(chris) == {"timeline": expected.timeline, "lsn": expected.lsn, "history": []}
    chris.standby.data_directory = str(tmp_path / "gone")
    assert ways.find_stopped_position(chris) == ways.NOWHERE


@pytest.mark.parametrize("printed", ["", "[]", "{}", '{"timeline": 1, "lsn": 2, "history": [3]}'])
def test_stopped_position_not_understood(printed: str) -> None:
    with pytest.raises(NotUnderstood):
        ways.find_stopped_position(cluster(printed))


@pytest.mark.parametrize("printed", ["", "x\n1\n", "1\n", "1\n2\n3\n", "1\n2\n1|x|y\n"])
def test_position_not_understood(printed: str) -> None:
    with pytest.raises(NotUnderstood):
        ways.find_position(cluster(printed))


class Barmans:
    """Play the Barman hosts of a fleet."""

    def __init__(self, answers: Dict[str, str]) -> None:
        self.answers = answers
        self.asked: List[str] = []

    def barman_user(self, _name: str) -> str:
        return "barman"

    def host(self, name: str) -> Any:
        def run(*_: str, **__: Any) -> str:
            self.asked.append(name)
            if not self.answers[name]:
                raise ConsoleError(f"{name}: Connection refused")
            return self.answers[name]

        return SimpleNamespace(name=name, run=run)


@pytest.mark.parametrize(
    ("answers", "asked", "error"),
    [
        ({"barman": "{}", "barman2": "{}"}, ["barman"], ""),
        ({"barman": "", "barman2": "{}"}, ["barman", "barman2"], ""),
        ({"barman": '{"error": "no backup"}', "barman2": "{}"}, ["barman", "barman2"], ""),
        ({"barman": "", "barman2": ""}, ["barman", "barman2"], "barman2: Connection refused"),
    ],
)
def test_several_barman_hosts(answers: Dict[str, str], asked: List[str], error: str) -> None:
    fleet = Barmans(answers)
    chris = cluster("")
    chris.standby.barman_hosts, chris.standby.option = list(answers), lambda _name: ""
    assert ways.ask_barman(fleet, chris, ways.NOWHERE).get("error", "") == error  # type: ignore[arg-type]
    assert fleet.asked == asked


@pytest.mark.parametrize(
    ("role", "patroni", "at", "is_told"),
    [
        ("primary", "", 0x30, True),
        ("primary", "", 0, False),
        ("primary", "/etc/patroni/main.yml", 0x30, False),
        ("streaming", "", 0x30, False),
    ],
)
def test_second_primary(role: str, patroni: str, at: int, is_told: bool) -> None:
    """Say of a primary that Barman reaches another one."""
    fleet = Barmans({"barman": json.dumps(found(divergence={"at": at, "is_ahead": False}))})
    chris = cluster("2\n5000\n1|0|30\n")
    chris.standby.barman_hosts, chris.standby.option = ["barman"], lambda _name: ""
    chris.standby.patroni_file = patroni
    row = ways.with_divergence(fleet, chris, Row("chris", "angus", role))  # type: ignore[arg-type]
    assert is_stuck(row) == is_told
    expected = ("it has left the primary's history at 0/30 (it is on timeline 2, the primary on timeline 1)",)
    assert row.problems == (expected if is_told else ())


@pytest.mark.parametrize("answer", ["x", "[]", "1"])
def test_barman_not_understood(answer: str) -> None:
    chris = cluster("")
    chris.standby.barman_hosts, chris.standby.option = ["barman"], lambda _name: ""
    said = ways.ask_barman(Barmans({"barman": answer}), chris, ways.NOWHERE)  # type: ignore[arg-type]
    assert "not understood" in said["error"]


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        # What is there, of what, since when: 4 MB in half a minute.
        ("{size} 0 {began}", "it is rebuilt from Barman: 4 of 40 MB, 1[0-3][0-9] kB/s, about 5 min left"),
        # With two tablespaces, one of which has not come so far.
        (
            "{size} 0 {began}\n{tablespace}\n{tablespace}2",
            "it is rebuilt from Barman: 6 of 40 MB, 1[5-9][0-9] kB/s, .*",
        ),
        # Nothing came since the run began.
        ("{size} {size} {began}", "it is rebuilt from Barman: 4 of 40 MB"),
        # No run has come so far.
        (None, "PostgreSQL does not run in {data}"),
    ],
)
def test_standby_that_is_rebuilt(tmp_path: Path, progress: Optional[str], said: str) -> None:
    data, new = tmp_path / "main", tmp_path / "main.rebuild" / "new"
    data.mkdir()
    new.mkdir(parents=True)
    (new / "file").write_bytes(b"x" * (4 << 20))
    tablespace = tmp_path / "a tablespace"
    tablespace.mkdir()
    (tablespace / "file").write_bytes(b"x" * (2 << 20))
    if progress:
        text = progress.format(size=40 << 20, began=int(time.time()) - 30, tablespace=tablespace)
        (tmp_path / "main.rebuild" / "progress").write_text(f"{text}\n", encoding="ascii")
    ran = subprocess.run(["sh", "-c", FIND_POSTGRES, "sh", data], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert re.fullmatch(said.format(data=data), ran.stderr.strip())


def test_server_beside_a_copy_that_failed(tmp_path: Path) -> None:
    """Ask the old server where somebody has started it again."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    data.mkdir()
    (container / "new").mkdir(parents=True)
    (container / "progress").write_text("1000 0 1000\n", encoding="ascii")
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1\n5433\n/run/postgresql\n", encoding="ascii")
    script = f'{FIND_POSTGRES}\necho "$port $socket $PWD"'
    ran = subprocess.run(["sh", "-c", script, "sh", data], capture_output=True, text=True, check=True)
    assert ran.stdout == f"5433 /run/postgresql {data}\n"


def test_limit_of_a_rebuild() -> None:
    """Refuse the way through Barman just where the role would."""
    assert value_of("__standby_rebuild_most_behind") == ways.MOST_BEHIND
