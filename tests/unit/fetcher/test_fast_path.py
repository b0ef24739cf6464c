from pathlib import Path

from walbasin.fetcher import fast_path


def test_a_spool_that_was_removed_a_moment_ago_is_no_spool(tmp_path: Path) -> None:
    words = ["-p", "4", "barman", "angus", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]
    assert fast_path.run(str(tmp_path / "gone"), words) == (None, None)
