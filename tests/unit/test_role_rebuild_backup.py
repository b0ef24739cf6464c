"""Test which backup a rebuild takes, and whether Barman has the WAL since."""

import contextlib
from typing import Any, List, Optional, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.role_templar import load_script

examine_backup = load_script("examine_backup")
TOGETHER = examine_backup.Divergence()
# What Barman says of a backup, and the names in there.
BACKUP = {"cluster_size_bytes": 7, "postgresql_version": 150004, "tablespaces": []}
FIELDS = ["begin_wal", "compression", "disk_usage_bytes", "end_time_timestamp", "encryption", "throughput_bytes"]
SIZE = 16 << 20


def segments(first: int, last: int, timeline: int = 1) -> List[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in range(first, last + 1)]


@pytest.mark.parametrize(
    ("backups", "wanted", "chosen"),
    [
        ([("1", "DONE"), ("2", "DONE")], "", "2"),
        ([("2", "DONE"), ("1", "DONE")], "", "2"),
        ([("1", "DONE"), ("2", "WAITING_FOR_WALS"), ("3", "FAILED")], "", "1"),
        ([("1", "DONE"), ("2", "DONE")], "1", "1"),
        ([("1", "FAILED")], "", "no backup that is DONE"),
        ([], "", "no backup that is DONE"),
        ([("1", "DONE")], "2", "it has no backup 2, only 1"),
        ([("1", "FAILED")], "1", "its backup 1 is FAILED, not DONE"),
        ([("$(id)", "DONE")], "", "no backup that is DONE"),
    ],
)
def test_chosen_backup(backups: List[Any], wanted: str, chosen: str) -> None:
    known = [{"backup_id": name, "status": status} for name, status in backups]
    if " " in chosen:
        with pytest.raises(examine_backup.CannotTell, match=chosen):
            examine_backup.choose(known, wanted)
    else:
        assert examine_backup.choose(known, wanted) == chosen


@pytest.mark.parametrize(
    ("names", "primary", "missing", "abandoned"),
    [
        (segments(2, 9), 1, "", 0),
        (segments(2, 9), 0, "", 0),
        (segments(1, 4) + segments(6, 9), 1, "000000010000000000000005", 0),
        (segments(3, 9), 1, "000000010000000000000002", 0),
        ([], 1, "000000010000000000000002", 0),
        (segments(1, 1), 1, "000000010000000000000002", 0),
        ([*segments(2, 9), "00000002.history", *segments(5, 7, 2)], 1, "", 2),
        ([*segments(2, 5), "00000002.history", *segments(5, 7, 2)], 2, "", 0),
        ([*segments(2, 5), "00000002.history", *segments(6, 7, 2)], 2, "000000020000000000000005", 0),
    ],
)
def test_wal_since_backup(names: List[str], primary: int, missing: str, abandoned: int) -> None:
    histories = {2: [(1, 5 * SIZE + 100)]}
    known = examine_backup.Primary(primary, 10 * SIZE) if primary else None
    wal = examine_backup.examine_wal("000000010000000000000002", names, histories, SIZE, known)
    assert (wal.missing, wal.abandoned) == (missing, abandoned)


@pytest.mark.parametrize(
    ("last", "lsn", "behind"),
    [(9, 10 * SIZE, 0), (9, 10 * SIZE + 300, 300), (9, 9 * SIZE, 0), (4, 90 * SIZE, 85 * SIZE), (None, 3 * SIZE, SIZE)],
)
def test_end_of_archive(last: Optional[int], lsn: int, behind: int) -> None:
    """Tell how much the primary has written behind the archive's end."""
    names = segments(2, last) if last else []
    wal = examine_backup.examine_wal(
        "000000010000000000000002", names, {}, SIZE, examine_backup.Primary(timeline=1, lsn=lsn)
    )
    assert wal.behind == behind


@pytest.mark.parametrize(
    ("timeline", "lsn", "own", "primary", "expected"),
    [
        (1, 500, [], (1, 900), TOGETHER),
        (1, 900, [], (1, 500), examine_backup.Divergence(500, is_ahead=True)),
        (1, 300, [], (2, 900), TOGETHER),
        (1, 500, [], (2, 900), examine_backup.Divergence(400)),
        (2, 900, [], (1, 700), examine_backup.Divergence(400)),
        (2, 900, [(1, 300)], (1, 700), examine_backup.Divergence(300)),
        # Nobody knows where it has left timeline 1.
        (3, 900, [], (1, 700), examine_backup.Divergence(700)),
        # Two that did not see each other were promoted, and took the same number.
        (2, 900, [(1, 300)], (2, 950), examine_backup.Divergence(300)),
        (2, 350, [(1, 300)], (2, 950), examine_backup.Divergence(300)),
        (2, 450, [(1, 400)], (2, 950), TOGETHER),
        (2, 990, [(1, 400)], (2, 950), examine_backup.Divergence(950, is_ahead=True)),
        # It knows no history of its own timeline, but the primary's leads through it.
        (2, 450, [], (3, 950), TOGETHER),
        (2, 700, [], (3, 950), examine_backup.Divergence(600)),
        # The archive has no history of the primary's timeline.
        (1, 500, [], (4, 900), examine_backup.Divergence(is_known=False)),
        (4, 500, [(1, 400)], (4, 900), examine_backup.Divergence(is_known=False)),
        (4, 950, [], (4, 900), examine_backup.Divergence(900, is_ahead=True, is_known=False)),
        (0, 0, [], (1, 700), TOGETHER),
        (1, 500, [], None, TOGETHER),
    ],
)
def test_divergence(timeline: int, lsn: int, own: List[Any], primary: Optional[Any], expected: Any) -> None:
    where = examine_backup.Primary(*primary) if primary else None
    histories = {2: [(1, 400)], 3: [(1, 400), (2, 600)]}
    if timeline == 3:
        histories.pop(3)
    assert examine_backup.find_divergence(timeline, lsn, own, where, histories) == expected


@pytest.mark.parametrize(
    ("text", "is_reached"),
    [
        ("\tcurrent_lsn: 0/4000060\n\tcurrent_xlog: 000000010000000000000004\n\tis_in_recovery: False\n", True),
        ("\tcurrent_lsn: 0/4000060\n\tcurrent_xlog: 000000010000000000000004\n\tis_in_recovery: True\n", False),
        ("\tcurrent_lsn: None\n\tcurrent_xlog: None\n\tis_in_recovery: None\n", False),
        ("", False),
    ],
)
def test_primary_of_barman(text: str, is_reached: bool) -> None:
    assert (examine_backup.parse_primary(text) is not None) == is_reached


@pytest.mark.parametrize(
    ("version", "shown", "can_delta"),
    [
        ((3, 16), "", False),
        ((3, 17), "\tstaging_location: None\n", True),
        ((3, 17), "\tstaging_location: local\n", True),
        # Barman refuses both together.
        ((3, 17), "\tstaging_location: remote\n", False),
        ((4, 0), "", True),
    ],
)
def test_delta_restore(version: Tuple[int, int], shown: str, can_delta: bool) -> None:
    assert examine_backup.can_delta(version, shown) == can_delta


def test_backup_that_rsync_cannot_copy() -> None:
    assert examine_backup.data_folder("/b/angus/base/1/data/PG_VERSION\n", "1") == "/b/angus/base/1/data"
    with pytest.raises(examine_backup.CannotTell, match="compressed, encrypted, or a snapshot"):
        examine_backup.data_folder("/b/angus/base/1/data/base.tar.gz\n", "1")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(FIELDS), inner),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(backups=JSON | st.just([{"backup_id": "1", "status": "DONE"}]), shown=JSON, text=st.text())
def test_any_answer_of_barman(monkeypatch: pytest.MonkeyPatch, backups: Any, shown: Any, text: str) -> None:
    """Refuse what is not understood, without a traceback."""
    said = {"list-backup": backups, "show-backup": {"base_backup_information": shown, **BACKUP}}
    monkeypatch.setattr(examine_backup.Barman, "ask", lambda _self, command, *_words: said[command])
    monkeypatch.setattr(examine_backup.Barman, "run", lambda _self, *_words: text)
    barman = examine_backup.Barman("angus", "")
    for ask in (
        lambda: barman.find_backup(""),
        barman.version,
        lambda: examine_backup.parse_primary(barman.show_server()),
    ):
        with contextlib.suppress(examine_backup.CannotTell):
            ask()
