"""Test a backup that Barman restores with our fetcher as its restore command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.postgres import Server
from tests.support.processes import give, wait_until

from .conftest import RESTORE_POINT, ROWS_EACH, rows


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
