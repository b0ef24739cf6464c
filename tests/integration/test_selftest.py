"""Test barman-wal-restore -t, which a person or a timer calls."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost
from tests.support.postgres import SEGMENT_SIZE, Server
from tests.support.processes import IS_ROOT, POSTGRES, give, wait_until
from tests.support.standby import Standby, claim

from .conftest import Primary, rows


@pytest.mark.parametrize(("host", "kind"), [("gate", "barman-wal-gate"), ("stock", "no gate")])
def test_selftest_steps(chris: Standby, angus: Primary, wal: Callable[[str], bytes], host: str, kind: str) -> None:
    chris.make_spool()
    newest = angus.segments[5]
    (chris.data / "pg_wal" / newest).write_bytes(wal(newest))
    give(chris.data)
    call = chris.fetch("test", "-t", host=host, destination="pg_wal/test")
    assert (call.status, call.stderr) == (0, "")
    steps = [re.split(r"  +", line)[1] for line in call.stdout.splitlines()]
    assert steps == ["connection", "host key", "key", "server", "segment", "spool", "archive"]
    assert all(re.search(r"\d\.\d{3} s", line) for line in call.stdout.splitlines())
    assert kind in call.stdout
    assert f"{newest} fetched and verified: 16 MiB" in call.stdout
    assert chris.pg_wal() == [newest], "nothing is delivered"


def test_selftest_newest_archived_segment(chris: Standby, angus: Primary, wal: Callable[[str], bytes]) -> None:
    archived, not_yet = angus.segments[-1], "0000000100000000000000F0"
    (chris.data / "pg_wal" / archived).write_bytes(wal(archived))
    (chris.data / "pg_wal" / not_yet).write_bytes(
        wal_builder.build_segment(not_yet, angus.system_identifier, SEGMENT_SIZE)
    )
    give(chris.data)
    call = chris.fetch("test", "-t", destination="pg_wal/test")
    assert call.status == 0
    assert archived in call.stdout


@pytest.mark.parametrize(
    ("host", "server", "fault", "cause"),
    [
        ("refused", "angus", "", "Connection refused"),
        ("changed", "angus", "", "Host key verification failed"),
        ("stranger", "angus", "", "Permission denied"),
        ("stock", "nosuch", "", "nosuch"),
        ("gate", "nosuch", "", "server 'nosuch'"),
        ("stock", "angus", "no segment", "no segment in pg_wal"),
        ("stock", "angus", "not archived", "0000000100000000000000F0 is there"),
        ("stock", "angus", "another cluster", "another cluster"),
        ("stock", "angus", "spool", "spool"),
    ],
)
def test_selftest_errors(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], host: str, server: str, fault: str, cause: str
) -> None:
    name = "0000000100000000000000F0" if fault == "not archived" else angus.segments[5]
    if fault == "not archived":
        (chris.data / "pg_wal" / name).write_bytes(
            wal_builder.build_segment(name, angus.system_identifier, SEGMENT_SIZE)
        )
    elif fault == "another cluster":
        control = chris.data / "global" / "pg_control"
        control.write_bytes(wal_builder.number(wal_builder.FOREIGN, 8) + bytes(8184))
    elif fault != "no segment":
        (chris.data / "pg_wal" / name).write_bytes(wal(name))
    if fault == "spool":
        chris.spool.touch()
    give(chris.data)
    asked = name if fault == "another cluster" else "test"
    call = chris.fetch(asked, "-t", host=host, server=server, destination="pg_wal/test")
    assert call.status == 2
    assert cause in call.lines[-1]


@pytest.mark.parametrize(
    ("effective", "login", "status", "words"),
    [
        ("ours", "trust", 0, "the running server uses barman-wal-restore"),
        ("ours", "reject", 1, "could not be asked"),
        ("", "trust", 2, "has no restore_command"),
        ("false", "trust", 2, "another restore_command: false"),
    ],
)
def test_selftest_of_running_server(
    chris: Standby,
    angus: Primary,
    copy_of_base: Callable[..., Server],
    restore_command: Callable[..., str],
    effective: str,
    login: str,
    status: int,
    words: str,
) -> None:
    """Ask the running server what it uses: a copy of the command proves nothing."""
    server = copy_of_base("dora", "standby.signal", restore_command=restore_command("-p", "4"), hot_standby="on")
    server.start()
    wait_until(lambda: rows(server) == angus.rows, "the last archived row", 60)
    if effective != "ours":
        server.sql(f"ALTER SYSTEM SET restore_command = '{effective}'")
    if login == "reject":
        (server.data / "pg_hba.conf").write_text("local all all reject\nhost all all 127.0.0.1/32 reject\n")
    server.program("pg_ctl", "-D", server.data, "reload")
    if effective != "ours":
        wait_until(lambda: server.sql("SHOW restore_command") == effective, "the new setting")
    call = chris.fetch(angus.segments[3], "-t", host="gate", cwd=server.data)
    assert call.status == status, call.stdout + call.stderr
    assert words in call.stdout + call.stderr
    seen = json.loads(chris.fetch("test", "--status", "--json", host="gate", cwd=server.data).stdout)["test"]
    assert (bool(seen["error"]), bool(seen["unasked"])) == (status == 2, status == 1)
    assert seen["is_lasting"] == (status == 2), "a segment that is restored by hand does not disprove it"


def test_selftest_of_primary(chris: Standby, angus: Primary) -> None:
    """Test a primary, which may become the standby, without judging its settings."""
    chris.make_spool()
    call = chris.fetch("test", "-t", host="gate", cwd=angus.server.data, destination="pg_wal/test")
    assert (call.status, call.stderr) == (0, ""), call.stdout
    assert "the server is a primary, which needs no restore_command" in call.stdout


@pytest.fixture
def broken(barman: BarmanHost) -> Iterator[Callable[[str], None]]:
    """Return a function that breaks `barman` or the gate on the Barman host."""
    files = {"barman": barman.folder / "bin" / "barman", "gate": barman.folder / "lib/walbasin/gate/server.py"}
    texts = {part: file.read_text() for part, file in files.items()}
    faults = {
        "barman": "#!/bin/sh\necho 'no module named psycopg2' >&2\nexit 1\n",
        "gate": "raise RuntimeError('not complete')\n",
    }

    def make(part: str) -> None:
        files[part].write_text(faults[part])

    yield make
    for part, file in files.items():
        file.write_text(texts[part])


@pytest.mark.parametrize(
    ("part", "jobs", "status", "words"),
    [
        ("barman", "4", 0, "no module named psycopg2: what only Barman can decompress would not come"),
        ("barman", "0", 2, "no module named psycopg2"),
        ("gate", "4", 0, "it does not serve, so each segment comes by barman get-wal, more slowly"),
        ("gate", "0", 0, "fetched and verified"),
    ],
)
def test_selftest_on_the_way_of_recovery(
    served: Standby, angus: Primary, broken: Callable[[str], None], part: str, jobs: str, status: int, words: str
) -> None:
    """Test what recovery would use, and tell of the other way."""
    broken(part)
    call = served.fetch(angus.segments[3], "-t", "-p", jobs, host="gate")
    assert (call.status, served.fetch(angus.segments[3], "-p", jobs, host="gate").status) == (status, status)
    assert words in call.stdout + call.stderr


def test_spool_missing(chris: Standby, angus: Primary) -> None:
    """Make no spool: a wrong --spool-dir would look like a standby without a past."""
    call = chris.fetch("test", "--status", host="gate")
    assert (call.status, call.stdout) == (2, "")
    assert (
        call.stderr
        == f"barman-wal-restore: spool {chris.spool} is missing: the first call of restore_command makes it\n"
    )
    call = chris.fetch(angus.segments[3], "-t", host="gate")
    assert call.status == 0, call.stderr
    assert f"--  spool       {chris.spool} is missing: the first call of restore_command makes it" in call.stdout
    assert not chris.spool.exists()
    chris.spool = chris.folder / "no" / "such" / "folder"
    call = chris.fetch(angus.segments[3], "-t", host="gate")
    assert call.status == 2
    assert f"the spool {chris.spool} is missing, and we cannot make it in" in call.lines[-1]


@pytest.mark.skipif(not IS_ROOT, reason="only root may give a process mounts of its own")
@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        ("mount --bind {spool} {spool} && mount -o remount,ro,bind {spool}", "add ReadWritePaths={spool} to its unit"),
        ("mount -t tmpfs none {spool}", "the server sees another folder at {spool}"),
        ("mount -t proc -o subset=pid proc /proc", "take ProcSubset=pid out of its unit"),
        ("true", ""),
    ],
)
def test_mounts_of_the_server(chris: Standby, angus: Primary, mounts: str, words: str) -> None:
    """Look where the server looks: its unit may give it mounts of its own."""
    chris.make_spool()
    become = f"exec setpriv --reuid={POSTGRES} --regid={POSTGRES} --clear-groups sleep 60"
    script = f"{mounts.format(spool=chris.spool)} && {become}"
    server = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], cwd=chris.data)
    try:
        wait_until(lambda: Path(f"/proc/{server.pid}/comm").read_text() == "sleep\n", "the server", step=0.05)
        claim(chris.data, server.pid)
        call = chris.fetch(angus.segments[3], "-t", host="gate")
    finally:
        server.kill()
        server.wait()
    assert call.status == (2 if words else 0), call.stderr
    assert words.format(spool=chris.spool) in call.stderr
