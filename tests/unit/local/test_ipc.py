from pathlib import Path

from walbasin.local import ipc


def test_a_spool_that_was_removed_a_moment_ago_is_no_spool(tmp_path: Path) -> None:
    words = ["-p", "4", "barman", "angus", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]
    assert ipc.first(str(tmp_path / "gone"), words) == (None, None)
