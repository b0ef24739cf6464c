from pathlib import Path

import pytest
from walbasin.local import data_directory, running_server

from tests.support.wal_builder import build_data_directory

OURS = "/usr/local/bin/barman-wal-restore -p 8 barman angus %f %p"


@pytest.mark.parametrize(
    ("effective", "words"),
    [
        (OURS, ""),
        (f"[ -x /usr/local/bin/barman-wal-restore ] && exec {OURS}", ""),
        (f'[ -x /usr/local/bin/barman-wal-restore ] && exec {OURS}; echo "not installed" >&2; exit 1', ""),
        ("'/opt/my tools/barman-wal-restore' barman angus '%f' '%p'", ""),
        ("", "has no restore_command"),
        ("false", "another restore_command: false"),
        ("cp /archive/%f %p", "another restore_command"),
        (OURS.replace("angus", "boris"), "another restore_command"),
    ],
)
def test_command(effective: str, words: str) -> None:
    reason = running_server.explain_command(effective, "angus")
    assert words in reason
    assert bool(reason) == bool(words)


@pytest.mark.parametrize(
    ("version", "file", "line", "words"),
    [
        (15, "postgresql.auto.conf", "recovery_target_time = '2026-01-01'", "ALTER SYSTEM RESET recovery_target_time"),
        (15, "postgresql.conf", "recovery_target = 'immediate'", "ALTER SYSTEM RESET recovery_target"),
        (11, "recovery.conf", "recovery_target_xid = '5'", "take it out of recovery.conf"),
        (15, "postgresql.conf", "recovery_target_timeline = 'latest'", ""),
        (15, "postgresql.conf", "recovery_target_action = 'pause'", ""),
        (15, "postgresql.conf", "recovery_target_name = ''", ""),
    ],
)
def test_targets(tmp_path: Path, version: int, file: str, line: str, words: str) -> None:
    folder = build_data_directory(tmp_path / "main", version)
    (folder / file).write_text(f"{line}\n")
    cluster = data_directory.read(str(folder))
    assert cluster is not None
    reason = running_server.explain_targets(cluster)
    assert words in reason
    assert bool(reason) == bool(words)
