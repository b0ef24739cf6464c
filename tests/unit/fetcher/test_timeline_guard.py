"""Test for whom the timeline guard stands."""

from pathlib import Path

import pytest
from walbasin import policy
from walbasin.fetcher import timeline_guard
from walbasin.fetcher.call import Call
from walbasin.fetcher.options import parse
from walbasin.local import data_directory

from tests.support.wal_builder import OURS, build_data_directory


@pytest.mark.parametrize(
    ("mode", "target", "options", "is_on"),
    [
        (policy.STANDBY, "latest", [], True),
        (policy.STANDBY, "", [], True),
        (policy.STANDBY, "3", [], False),  # somebody has named the timeline
        (policy.STANDBY, "latest", ["--any-timeline"], False),
        (policy.RECOVERY, "latest", [], False),
        (policy.RECOVERY, "3", [], False),
    ],
)
def test_guarded_calls(tmp_path: Path, mode: str, target: str, options: list[str], is_on: bool) -> None:
    folder = build_data_directory(tmp_path / "main", 15, OURS)
    (folder / "postgresql.conf").write_text(f"recovery_target_timeline = '{target}'\n" if target else "")
    call = Call(
        options=parse([*options, "barman", "angus", "00000002.history", "pg_wal/RECOVERYHISTORY"]),
        cluster=data_directory.read(str(folder)),
        mode=mode,
        spool=None,
    )
    assert timeline_guard.is_on(call) == is_on
    assert not timeline_guard.is_on(call._replace(cluster=None))
