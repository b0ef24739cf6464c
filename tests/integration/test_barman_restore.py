"""Test a backup that Barman restores with our fetcher as its restore command."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.postgres import Server, programs
from tests.support.processes import give, wait_until

from .conftest import RESTORE_POINT, ROWS_EACH, rows


@pytest.fixture
def backed_up(workdir: Path, barman: BarmanHost, name: str) -> Iterator[Server]:
    """Return a primary with a backup at Barman, rows after it, and more after a point.

    Its Barman server has the test's name: Barman's first backup of a server removes the
    WAL from before.
    """
    server = Server(workdir / "primary")
    server.create()
    server.configure(wal_level="replica", archive_mode="on", archive_command=barman.archive_command(name, workdir))
    barman.add_server(name, port=server.port)
    with (barman.folder / "barman.d" / f"{name}.conf").open("a") as file:
        file.write(f"path_prefix = {programs()}\n")
    give(barman.home / name / "incoming")
    server.start()

    def archive() -> None:
        last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
        query = f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver"
        wait_until(lambda: server.sql(query) == "t", "archiving")
        barman.run_barman("archive-wal", name)

    try:
        server.sql("CREATE TABLE t (n integer)")
        archive()
        barman.run_barman("backup", name)
        for point in (RESTORE_POINT, "too_far"):
            server.sql(f"INSERT INTO t SELECT generate_series(1, {ROWS_EACH})")
            server.sql(f"SELECT pg_create_restore_point('{point}')")
            archive()
        yield server
    finally:
        server.end()


@pytest.mark.parametrize("host", ["gate", "stock"])
def test_recovery_to_target(
    backed_up: Server,
    workdir: Path,
    barman: BarmanHost,
    name: str,
    host: str,
    restore_command: Callable[..., str],
) -> None:
    """End at the target, with a command that Barman has written (3.18 and later)."""
    command = restore_command("-p", "4", host=host, server=name).replace("%p", '"%p"')
    target = ["--target-name", RESTORE_POINT, "--target-action", "promote"]
    barman.run_barman(
        "restore", "--get-wal", "--restore-command", command, *target, name, "latest", f"{workdir}/restored"
    )
    restored = Server(give(workdir / "restored"))
    assert (restored.data / "recovery.signal").exists()
    restored.configure(archive_mode="off")
    restored.start()
    try:
        wait_until(lambda: restored.sql("SELECT pg_is_in_recovery()") == "f", "the end of recovery", 60)
        assert rows(restored) == ROWS_EACH
        assert f'recovery stopping at restore point "{RESTORE_POINT}"' in restored.log()
        assert "restored log file" in restored.log()
        assert restored.sql("SHOW restore_command") == command
    finally:
        restored.end()
