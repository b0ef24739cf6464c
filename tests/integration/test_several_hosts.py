"""Fetch from two Barman hosts: `barman`, the preferred one, and `barman2`.

The rows are those of the decision table in docs/barman-wal-restore.md.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import wal_builder
from tests.support.pair import LISTED, Pair, forget_outages, with_and_without_prefetch
from tests.support.postgres import SEGMENT_SIZE, Server
from tests.support.processes import wait_until
from tests.support.standby import Standby, claim

from .conftest import Primary, rows

# What each host has of the wanted segment; it always has the one before. The rows of
# the table: A, B, the status on a standby, in a point-in-time recovery, and words.
ROWS = [
    ("1", "has it", "has it", 0, 0, ""),
    ("2", "no", "has it", 0, 0, "barman has none, barman2 has it"),
    ("3", "no", "no", 1, 1, "not in the archive of"),
    ("3, a gap", "no", "later", 1, 200, ""),
    ("5", "no", "dead", 1, 200, "barman has none, and barman2 could not be asked: ssh to barman2 failed"),
    ("5, a gap", "later", "dead", 1, 200, ""),
    ("6", "dead", "has it", 0, 0, "ssh to barman failed"),
    ("7", "dead", "no, passive", 2, 200, "barman2 has none"),
    ("8", "dead", "no", 2, 200, "barman2 has none, and barman could not be asked: ssh to barman failed"),
    ("9", "dead", "dead", 2, 200, "ssh to barman2 failed"),
    ("10", "bad", "has it", 0, 0, "what came from barman was refused: 1048576 bytes"),
    ("11", "bad", "no", 3, 200, "barman2 has none"),
    ("11, dead", "bad", "dead", 3, 200, "what came from barman was refused"),
    ("empty", "no", "empty", 1, 200, ""),
    ("foreign", "no", "foreign", 1, 200, ""),
    ("both passive", "no, passive", "no, passive", 1, 200, ""),
]
ROWS_OF_HISTORY = [
    ("3", "no", "no", 1, 1),
    ("13", "no", "dead, passive", 1, 1),
    ("14", "no", "dead", 1, 200),
    ("12", "dead", "no", 2, 200),
    ("6", "dead", "has it", 0, 0),
]


def chosen(rows: list[Any], *names: str) -> list[object]:
    """Return the parameters: these run every time, the others with make test-all.

    What a row is called stands in its first field.
    """
    return [pytest.param(row, id=row[0], marks=[] if row[0] in names else pytest.mark.matrix) for row in rows]


def stage(pair: Pair, name: str, state: str, angus: Primary, wal: Callable[[str], bytes]) -> None:
    """Have a host say so of the fifth segment."""
    before, wanted, _, later = angus.segments[3:7]
    if state == "foreign":
        pair.put(name, before, wal_builder.build_segment(before, angus.system_identifier ^ 1, SEGMENT_SIZE))
    elif state != "empty":
        pair.put(name, before, wal(before))
    if state == "has it":
        pair.put(name, wanted, wal(wanted))
    elif state == "bad":
        pair.put(name, wanted, wal(wanted)[: 1 << 20])
    elif state == "later":
        pair.put(name, later, wal(later))
    elif state == "dead":
        pair.refuse(name)
    if "passive" in state:
        pair.make_passive(name)


@with_and_without_prefetch
@pytest.mark.parametrize("keys", ["gate gate", pytest.param("stock gate", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("row", chosen(ROWS, "2", "5", "7", "8", "10", "both passive"))
def test_rows(
    make_standby: Callable[..., Standby],
    pair: Pair,
    angus: Primary,
    wal: Callable[[str], bytes],
    row: tuple[str, str, str, int, int, str],
    keys: str,
    jobs: str,
) -> None:
    number, first, second, on_standby, in_recovery, words = row
    pair.keys = dict(zip(pair.hosts, keys.split(), strict=True))
    pair.write()
    stage(pair, "barman", first, angus, wal)
    stage(pair, "barman2", second, angus, wal)
    wanted = angus.segments[4]
    standby = make_standby("standby.signal")
    sleeps = number in ("9", "11", "11, dead")
    call = pair.fetch(standby, wanted, "-p", jobs, "-s", "3" if sleeps else "60")
    assert call.status == on_standby, call.stderr
    assert words in call.stderr
    # The prefetch process says once that there is no gate.
    is_slow = keys.startswith("stock") and jobs != "0"
    assert len(call.lines) == (is_slow if number == "1" else 1)
    if call.status == 0:
        assert standby.delivered() == wal(wanted)
    assert call.seconds < 30, "there is no sleep"
    looked = call.stderr
    if sleeps:
        assert call.seconds > 3
    (standby.data / "standby.signal").rename(standby.data / "recovery.signal")
    call = pair.fetch(standby, wanted, "-p", jobs, "--retry", "0")
    assert call.status == in_recovery, call.stderr
    # On a standby only a gate is asked, which has a list.
    if number == "5, a gap" and jobs == "0" and keys.startswith("gate"):
        assert f"a gap here: it holds {angus.segments[6]}" in looked
    if number == "3, a gap":
        assert f"a gap here: it holds {angus.segments[6]}" in call.stderr
    if number == "empty":
        assert "the archive on barman2 does not have it, nor anything before it" in call.stderr


@with_and_without_prefetch
@pytest.mark.parametrize("row", chosen(ROWS_OF_HISTORY, "12", "14"))
def test_rows_of_history(
    make_standby: Callable[..., Standby],
    pair: Pair,
    angus: Primary,
    wal: Callable[[str], bytes],
    row: tuple[str, str, str, int, int],
    jobs: str,
) -> None:
    """Warn of a timeline that may be taken, unless who could know it has said no."""
    _, one, other, on_standby, in_recovery = row
    wanted = "00000002.history"
    for name, state in zip(pair.hosts, (one, other), strict=True):
        pair.put(name, angus.segments[3], wal(angus.segments[3]))
        if state == "has it":
            pair.put(name, wanted, b"1\t0/3000148\tno recovery target specified\n")
    standby = make_standby("recovery.signal")
    if "passive" in other:
        pair.make_passive("barman2")
        assert pair.fetch(standby, wanted, "-p", jobs, "--retry", "0").status == 1, "barman2 is known from now on"
    for name, state in zip(pair.hosts, (one, other), strict=True):
        if "dead" in state:
            pair.refuse(name)
    call = pair.fetch(standby, wanted, "-p", jobs, "--retry", "0")
    assert call.status == in_recovery, call.stderr
    (standby.data / "recovery.signal").unlink()
    call = pair.fetch(standby, wanted, "-p", jobs, destination="pg_wal/RECOVERYHISTORY")
    assert call.status == on_standby, call.stderr
    is_warned = (one, other) in [("no", "dead"), ("dead", "no")]
    assert ("PostgreSQL asks whether timeline 2 exists, and goes on as if it did not" in call.stderr) == is_warned


@with_and_without_prefetch
def test_known_passive_host_dead(
    make_standby: Callable[..., Standby], pair: Pair, angus: Primary, wal: Callable[[str], bytes], jobs: str
) -> None:
    """End a recovery without a copy's word: row 4. Not when barman has later WAL."""
    before, wanted, _, later = angus.segments[3:7]
    for name in pair.hosts:
        pair.put(name, before, wal(before))
    pair.make_passive("barman2")
    recovering = make_standby("recovery.signal")
    assert pair.fetch(recovering, wanted, "-p", jobs, "--retry", "0").status == 1
    pair.refuse("barman2")
    call = pair.fetch(recovering, wanted, "-p", jobs, "--retry", "0")
    assert call.status == 1, call.stderr
    pair.put("barman", later, wal(later))
    call = pair.fetch(recovering, wanted, "-p", jobs, "--retry", "0")
    assert (call.status, "a gap here" in call.stderr) == (200, True), call.stderr


@with_and_without_prefetch
@pytest.mark.parametrize("key", ["gate", "stock"])
def test_copy_of_another_host_dead(
    make_standby: Callable[..., Standby],
    pair: Pair,
    angus: Primary,
    wal: Callable[[str], bytes],
    key: str,
    jobs: str,
) -> None:
    """Do not end a recovery while the copy of a host that nobody asks is silent."""
    pair.keys["barman2"] = key
    pair.write()
    before, wanted = angus.segments[3:5]
    for name in pair.hosts:
        pair.put(name, before, wal(before))
    pair.make_passive("barman2", "elsewhere")
    recovering = make_standby("recovery.signal")
    assert pair.fetch(recovering, wanted, "-p", jobs, "--retry", "0").status == 1
    pair.refuse("barman2")
    call = pair.fetch(recovering, wanted, "-p", jobs, "--retry", "0")
    assert (call.status, "barman2" in call.stderr) == (200, True), call.stderr


@with_and_without_prefetch
@pytest.mark.parametrize("hosts", ["barman2", LISTED])
def test_passive_hosts_accepted(
    make_standby: Callable[..., Standby], pair: Pair, angus: Primary, wal: Callable[[str], bytes], hosts: str, jobs: str
) -> None:
    before, wanted = angus.segments[3:5]
    for name in pair.hosts:
        pair.put(name, before, wal(before))
        pair.make_passive(name)
    recovering = make_standby("recovery.signal")
    call = pair.fetch(recovering, wanted, "-p", jobs, "--retry", "0", hosts=hosts)
    assert (call.status, "passive copy" in call.stderr) == (200, True), call.stderr
    call = pair.fetch(recovering, wanted, "-p", jobs, "--retry", "0", "--accept-passive", hosts=hosts)
    assert (call.status, "recovery ends here" in call.stderr) == (1, True), call.stderr


@with_and_without_prefetch
def test_partial_of_preferred_host(
    chris: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes], jobs: str
) -> None:
    """Deliver a .partial when every host has no whole segment: row 15."""
    before, wanted = angus.segments[3:5]
    partials = {"barman": wal(wanted), "barman2": wal(wanted)[: SEGMENT_SIZE // 2].ljust(SEGMENT_SIZE, b"\0")}
    for name, host in pair.hosts.items():
        pair.put(name, before, wal(before))
        (host.home / pair.server / "streaming" / f"{wanted}.partial").write_bytes(partials[name])
    assert pair.fetch(chris, wanted, "-p", jobs, "-P").status == 0
    assert chris.delivered() == partials["barman"]
    pair.refuse("barman")
    call = pair.fetch(chris, wanted, "-p", jobs, "-P")
    assert call.status == 2, call.stderr
    assert chris.pg_wal() == []
    pair.accept("barman")
    forget_outages(chris)
    pair.put("barman2", wanted, wal(wanted))
    assert pair.fetch(chris, wanted, "-p", jobs, "-P").status == 0
    assert chris.delivered() == wal(wanted), "the whole segment of the other host comes first"


@with_and_without_prefetch
def test_archives_of_different_clusters(
    chris: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes], jobs: str
) -> None:
    """Refuse the second host's WAL, once, and do not ask it again for a while."""
    wanted, missing = angus.segments[4:6]
    pair.put("barman", wanted, wal(wanted))
    for each in (wanted, missing):
        pair.put("barman2", each, wal_builder.build_segment(each, angus.system_identifier ^ 1, SEGMENT_SIZE))
    assert pair.fetch(chris, wanted, "-p", jobs).status == 0
    call = pair.fetch(chris, missing, "-p", jobs)
    assert call.status in (1, 3), "1: the prefetch process has found out before"
    assert "of another cluster" in call.stderr
    call = pair.fetch(chris, missing, "-p", jobs)
    assert call.status == 1, call.stderr
    assert "barman2 could not be asked: barman2 has the archive of another cluster" in call.stderr


def test_hosts_with_and_without_gate(served: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes]) -> None:
    """Fetch a segment that the gate lacks from the stock host, and go on."""
    pair.keys = {"barman": "gate", "barman2": "stock"}
    pair.write()
    for number, each in enumerate(angus.segments):
        pair.put("barman2", each, wal(each))
        if number != 3:
            pair.put("barman", each, wal(each))
    for each in angus.segments:
        call = pair.fetch(served, each, "-p", "3")
        assert call.status == 0, call.stderr
        assert served.delivered() == wal(each)
    not_there = "0000000100000000000000EE"
    assert pair.fetch(served, not_there, "-p", "3").status == 1


def test_spool_kept_when_a_host_is_added(
    served: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes]
) -> None:
    pair.put_everywhere(angus.segments, wal)
    assert pair.fetch(served, angus.segments[0], "-p", "3", hosts="barman").status == 0
    before = sorted(path for path in served.spool.rglob("*") if path.is_dir() and not path.is_symlink())
    assert pair.fetch(served, angus.segments[1], "-p", "3").status == 0
    after = sorted(path for path in served.spool.rglob("*") if path.is_dir() and not path.is_symlink())
    assert before == after
    wait_until(lambda: status_of(served, pair)["counters"]["restored"] == 2, "the counters of both")


def status_of(standby: Standby, pair: Pair) -> dict[str, dict[str, object]]:
    call = pair.fetch(standby, "any", "--status", "--json")
    assert call.status == 0, call.stderr
    found: dict[str, dict[str, object]] = json.loads(call.stdout)
    return found


def test_foreground_prefetch_from_second_host(
    served: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fill the spool from whoever delivers, where no prefetch process may run."""
    for each in angus.segments:
        pair.put("barman2", each, wal(each))
    pair.refuse("barman")
    # As in a container whose process 1 is the postmaster.
    claim(served.data, 1)
    call = pair.fetch(served, angus.segments[0], "-p", "3")
    assert call.status == 0, call.stderr
    assert served.spooled() == angus.segments[1:3]


# --- -t and --status


@pytest.mark.parametrize(
    ("dead", "status", "words"),
    [
        ("", 0, ""),
        ("barman2", 0, "test: barman2 does not work, so it could not stand in for the others: ssh to barman2 failed"),
        ("barman", 2, "test failed: ssh to barman failed"),
    ],
)
def test_selftest(
    chris: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes], dead: str, status: int, words: str
) -> None:
    chris.make_spool()
    newest = angus.segments[5]
    (chris.data / "pg_wal" / newest).write_bytes(wal(newest))
    for name in pair.hosts:
        pair.put(name, newest, wal(newest))
    pair.make_passive("barman2")
    if dead:
        pair.refuse(dead)
    call = pair.fetch(chris, "test", "-t", "-p", "4", destination="pg_wal/test")
    assert call.status == status, call.stdout + call.stderr
    assert words in call.stderr
    copy = f"--  copy        barman2 is a passive copy of barman; it has {newest}\n"
    assert (copy in call.stdout) == (not dead)
    for name in pair.hosts:
        lines = [
            line for line in call.stdout.splitlines() if line.startswith("ok  host ") and line.endswith(f" {name}")
        ]
        assert len(lines) == (name != dead)
    shown = pair.fetch(chris, "any", "--status").stdout
    for name in pair.hosts:
        assert f"{name}: {'ssh to' if name == dead else 'ok'}" in shown
    metrics = pair.fetch(chris, "any", "--status", "--prometheus").stdout
    for name in pair.hosts:
        assert (
            f'walbasin_host_success{{barman="{LISTED}",server="{pair.server}",host="{name}"}} {int(name != dead)}'
            in metrics
        )


def test_gaps_in_both_archives(
    copy_of_base: Callable[..., Server],
    pair: Pair,
    angus: Primary,
    wal: Callable[[str], bytes],
    fetcher: Path,
    workdir: Path,
) -> None:
    """Recover all rows, although neither host has all segments."""
    for number, each in enumerate(angus.segments):
        names = ["barman", "barman2"] if number == len(angus.segments) - 1 else [list(pair.hosts)[number % 2]]
        for name in names:
            pair.put(name, each, wal(each))
    # Each proves whose archive it has with the segment before the missing one.
    server = copy_of_base(
        "pitr", "recovery.signal", restore_command=pair.command(fetcher, workdir / "spool", "-p", "4")
    )
    server.start()
    wait_until(lambda: "archive recovery complete" in server.log(), "the end of recovery", 120)
    assert rows(server) == angus.rows
    assert "has none, barman2 has it" in server.log()
