from pathlib import Path

from walbasin.fetcher import fast_path


def test_spool_removed(tmp_path: Path) -> None:
    words = ["-p", "4", "barman", "angus", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]
    assert fast_path.run(str(tmp_path / "gone"), False, words[-3:], words) == (None, None)
