"""Recover real servers through the fetcher: standby, point-in-time, pg_rewind."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.postgres import Server, programs
from tests.support.processes import IS_ROOT, POSTGRES, processes, wait_until

from .conftest import RESTORE_POINT, Primary, rows


def test_standby_and_promotion(
    copy_of_base: Callable[..., Server], restore_command: Callable[..., str], angus: Primary, workdir: Path
) -> None:
    chris = copy_of_base("chris", "standby.signal", restore_command=restore_command("-p", "4", "-s", "10"))
    chris.start()
    wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)
    for name in angus.segments[1:]:
        assert f'restored log file "{name}" from archive' in chris.log()
    started = time.monotonic()
    chris.promote()
    assert time.monotonic() - started < 30
    assert chris.sql("SELECT pg_is_in_recovery()") == "f"
    assert chris.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").startswith("00000002")
    assert rows(chris) == angus.rows
    chris.stop()
    wait_until(lambda: not processes([workdir]), "the end of the prefetch process")


def test_prefetch_process_end_before_server(
    copy_of_base: Callable[..., Server], restore_command: Callable[..., str], angus: Primary, workdir: Path
) -> None:
    """End the prefetch process first: a service manager may wait for it."""
    chris = copy_of_base("chris", "standby.signal", restore_command=restore_command("-p", "4"))
    chris.start()
    wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)
    prefetch_process = f"--spool-dir {workdir}/spool"
    assert processes([prefetch_process])
    checkpointer = int(chris.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"))
    os.kill(checkpointer, signal.SIGSTOP)
    try:
        chris.program("pg_ctl", "-D", chris.data, "-m", "fast", "-W", "stop")
        wait_until(lambda: not processes([prefetch_process]), "its end")
        assert chris.is_running()
    finally:
        os.kill(checkpointer, signal.SIGCONT)
    wait_until(lambda: not chris.is_running(), "its server's end")


@pytest.mark.skipif(not IS_ROOT, reason="only root may make a process namespace")
def test_recovery_as_process_1(
    copy_of_base: Callable[..., Server], restore_command: Callable[..., str], angus: Primary, workdir: Path
) -> None:
    """Start no prefetch process: process 1 would take its end for a crash."""
    chris = copy_of_base("chris", "standby.signal", restore_command=restore_command("-p", "4"))
    become = ["setpriv", f"--reuid={POSTGRES}", f"--regid={POSTGRES}", "--clear-groups"]
    server: list[str | Path] = [programs() / "postgres", "-D", chris.data, "-p", str(chris.port)]
    with chris.log_file.open("w") as log:
        container = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", *become, *server],
            cwd=workdir,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/bin:/bin"},
        )
    try:
        wait_until(lambda: "accept read-only connections" in chris.log(), "its start", 60)
        wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)
        wait_until(lambda: "not in the archive" in chris.log(), "the end of the archive")
        assert (chris.data / "postmaster.pid").read_text().splitlines()[0] == "1"
        assert chris.log().count("process 1 is the postmaster") == 1
        assert "terminat" not in chris.log()
    finally:
        # Signal the postmaster itself: pg_ctl would signal process 1 of our namespace.
        postmaster = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text()
        os.kill(int(postmaster), signal.SIGINT)
        container.wait(timeout=30)
    wait_until(lambda: not processes([workdir]), "its end", 10)


def test_restore_point(
    copy_of_base: Callable[..., Server], restore_command: Callable[..., str], angus: Primary
) -> None:
    server = copy_of_base(
        "pitr",
        "recovery.signal",
        restore_command=restore_command("-p", "4"),
        recovery_target_name=RESTORE_POINT,
        recovery_target_action="promote",
    )
    server.start()
    wait_until(lambda: server.sql("SELECT pg_is_in_recovery()") == "f", "the end of recovery", 120)
    assert rows(server) == angus.rows_at_restore_point
    assert f'recovery stopping at restore point "{RESTORE_POINT}"' in server.log()


def test_fast_shutdown_during_fetch(
    copy_of_base: Callable[..., Server],
    restore_command: Callable[..., str],
    angus: Primary,
    barman: BarmanHost,
    workdir: Path,
) -> None:
    barman.hold(angus.segments[6])
    chris = copy_of_base("chris", "standby.signal", restore_command=restore_command())
    chris.start()
    unfinished = chris.data / "pg_wal"
    wait_until(lambda: list(unfinished.glob("RECOVERYXLOG.*")), "the slow fetch", 60)
    started = time.monotonic()
    chris.stop("fast")
    assert time.monotonic() - started < 30, "the fetch itself has no end"
    assert not list(unfinished.glob("RECOVERY*"))
    assert not processes([workdir])
    assert not processes(["ssh", barman.client, angus.segments[6]])
    barman.calm()
    chris.start()
    wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)


def test_pg_rewind(
    copy_of_base: Callable[..., Server],
    restore_command: Callable[..., str],
    angus: Primary,
    barman: BarmanHost,
    name: str,
) -> None:
    """Rewind a server that has diverged from another one, with WAL from Barman."""
    barman.add_server(name)
    shutil.copytree(barman.home / "angus" / "wals", barman.home / name / "wals", dirs_exist_ok=True)
    command = restore_command("-p", "4", server=name)

    source = copy_of_base("source", "standby.signal", restore_command=command)
    source.start()
    wait_until(lambda: rows(source) == angus.rows, "the last archived row", 120)
    source.promote()
    source.sql("INSERT INTO t SELECT generate_series(1, 7)")
    source.sql("CHECKPOINT")
    # Archive timeline 2, so that the other server takes timeline 3.
    barman.put(name, "00000002.history", (source.data / "pg_wal" / "00000002.history").read_bytes())

    target = copy_of_base("target", "standby.signal", restore_command=command, recovery_target_timeline="1")
    target.start()
    wait_until(lambda: rows(target) == angus.rows, "the last archived row", 120)
    target.promote()
    assert target.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").startswith("00000003")
    target.sql("INSERT INTO t SELECT generate_series(1, 13)")
    target.stop()
    for file in (target.data / "pg_wal").glob("00000001*"):
        file.unlink()

    barman.requests()
    where = f"host=127.0.0.1 port={source.port} user=postgres dbname=postgres"
    options = ("--restore-target-wal", "--write-recovery-conf", "--no-sync")
    output = target.program("pg_rewind", *options, "-D", target.data, "--source-server", where)
    assert "Done!" in output
    requested = [line.split()[-1] for line in barman.requests()]
    assert requested
    assert set(requested) <= set(angus.segments)
    # It is a standby of the other one, as `fab ways` says.
    target.start()
    wait_until(lambda: rows(target) == rows(source), "the rows of the other server", 60)
    assert target.sql("SELECT pg_is_in_recovery()") == "t"
