"""Test what the rebuilding of a standby decides, and what it refuses."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Dict, List, Optional

import pytest

from tests.support.role_templar import ROLE, ROOT, load, value_of

MIB, GIB = 1 << 20, 1 << 30
SIZE = 16 * MIB
DATA = "/var/lib/postgresql/15/main"


def module(name: str) -> ModuleType:
    """Return one of the scripts that the role runs on hosts."""
    spec = importlib.util.spec_from_file_location(name, ROLE / "files" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


receive, examine_backup, place_data = map(module, ("receive_restore", "examine_backup", "place_data"))


def segments(first: int, last: int, timeline: int = 1) -> List[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in range(first, last + 1)]


# --- what the temporary key may do


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "test '-e' '/d/new'",
        "test '-d' '/d/new'",
        "test '-e' '/d/new/pg_tblspc/16384' '-o' '-L' '/d/new/pg_tblspc/16384'",
        "mkdir '-p' '/d/new' '-m' '700'",
        "mkdir '-p' '/d/new/pg_wal/archive_status'",
        "touch '/ts/.barman_write_check'",
        "rm '/ts/.barman_write_check'",
        "rm '-fr' '/d/new/pg_tblspc/16384'",
        "ln '-s' '/ts' '/d/new/pg_tblspc/16384'",
        "cat '/d/new/.barman-recover.info'",
        "ls '/d/new'",
        "mv '/d/new/backup_manifest' '/d/new/backup_manifest.20261129T001817'",
        "rsync --server -sKtprRe.iLsfxCIvu",
    ],
)
def test_commands_of_barman(command: str) -> None:
    """Let through what Barman 3.4 and 3.19 send."""
    assert receive.parse(command, receive.Folders("/d/new", ["/ts"]))


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh -c true",
        "'",
        "true x",
        "test -e /etc/passwd",
        "test -e /d/new/../../etc/passwd",
        "test -e /d/new -o -L /etc/passwd",
        "test -e /d/newer",
        "mkdir -p /d",
        "mkdir -p /d/new -m 777",
        "rm -fr /d/new",
        "rm -fr /d/new/base",
        "rm -fr /d/new/pg_tblspc/../base",
        "rm /d/new/PG_VERSION",
        "ln -s /etc /d/new/pg_tblspc/1",
        "ln -s /ts /d/new/base",
        "cat /etc/passwd",
        "mv /d/new/backup_manifest /d/new/pg_hba.conf",
        "mv /d/new/PG_VERSION /d/new/PG_VERSION.1",
        "rsync -a /etc /d/new",
        "sudo true",
    ],
)
def test_commands_of_others(command: str) -> None:
    with pytest.raises(receive.Refused):
        receive.parse(command, receive.Folders("/d/new", ["/ts"]))


@pytest.mark.parametrize(
    ("sent", "is_let_through"),
    [
        (["-LKtpre.iLs", "--delete-excluded", "--inplace", ".", "/d/new"], True),
        (["--files-from=-", "--from0", ".", "/ts/"], True),
        ([".", "/etc"], False),
        ([".", "/d/new", "/etc"], False),
        (["/d/new", "."], False),
        (["--files-from=/etc/passwd", ".", "/d/new"], False),
        (["--backup-dir=/etc", ".", "/d/new"], False),
        (["--link-dest=/etc", ".", "/d/new"], False),
        (["--remove-source-files", ".", "/d/new"], False),
        (["-lr", ".", "/d/new"], False),
        (["-e", "sh", ".", "/d/new"], False),
        (["--", ".", "/d/new"], False),
        ([], False),
    ],
)
def test_words_of_rsync(sent: List[str], is_let_through: bool) -> None:
    folders = receive.Folders("/d/new", ["/ts"])
    words = ["rsync", "--server", "-sKtpre.iLs"]
    if is_let_through:
        assert receive.complete_rsync(words, sent, folders)[:3] == ["rsync", "--server", "-Ktpre.iLs"]
    else:
        with pytest.raises(receive.Refused):
            receive.complete_rsync(words, sent, folders)


def test_link_out_of_folders(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "out").symlink_to("/etc")
    folders = receive.Folders(str(tmp_path / "new"), [])
    assert folders.holds(f"{tmp_path}/new/base")
    assert not folders.holds(f"{tmp_path}/new/out/passwd")


# --- what Barman has


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
    wal = examine_backup.examine_wal("000000010000000000000002", names, histories, SIZE, primary)
    assert (wal.missing, wal.abandoned) == (missing, abandoned)


@pytest.mark.parametrize(
    ("timeline", "lsn", "primary", "left_at"),
    [
        (1, 500, (1, 900), 0),
        (1, 900, (1, 500), 500),
        (1, 300, (2, 900), 0),
        (1, 500, (2, 900), 400),
        (2, 900, (1, 700), 400),
        (3, 900, (1, 700), 700),
        (0, 0, (1, 700), 0),
        (1, 500, None, 0),
    ],
)
def test_divergence(timeline: int, lsn: int, primary: Optional[Any], left_at: int) -> None:
    where = examine_backup.Primary(*primary) if primary else None
    assert examine_backup.find_divergence(timeline, lsn, where, {2: [(1, 400)]}) == left_at


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


def test_backup_that_rsync_cannot_copy() -> None:
    assert examine_backup.data_folder("/b/angus/base/1/data/PG_VERSION\n", "1") == "/b/angus/base/1/data"
    with pytest.raises(examine_backup.CannotTell, match="compressed, encrypted, or a snapshot"):
        examine_backup.data_folder("/b/angus/base/1/data/base.tar.gz\n", "1")


# --- what becomes of the copy


def test_place_of_copy(tmp_path: Path) -> None:
    """Keep the old directory and its settings, and leave nothing of Barman's."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    data.mkdir()
    (data / "PG_VERSION").write_text("15")
    (data / "postgresql.auto.conf").write_text("primary_conninfo = 'host=angus'\n")
    places = place_data.Places(str(data), str(container))
    place_data.keep(places)
    for name in ("pg_wal", "barman_wal"):
        (container / "new" / name).mkdir(parents=True)
    (container / "new" / "postgresql.auto.conf").write_text("restore_command = 'barman-wal-restore x'\n")
    for name in (".barman-recover.info", "backup_manifest.1", "postgresql.auto.conf.origin", "recovery.signal"):
        (container / "new" / name).write_text("")
    (note,) = place_data.place(places, 15)
    assert "the old data directory is kept" in note
    assert sorted(path.name for path in data.iterdir()) == ["pg_wal", "postgresql.auto.conf", "standby.signal"]
    assert "host=angus" in (data / "postgresql.auto.conf").read_text()
    place_data.tidy(places)
    assert [path.name[:4] for path in container.iterdir()] == ["old-"]
    assert list(place_data.place(places, 15)) == []


def test_settings_of_backup(tmp_path: Path) -> None:
    """Where no settings are left, take the backup's, without another's recovery."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    places = place_data.Places(str(data), str(container))
    place_data.keep(places)
    (container / "new" / "pg_wal").mkdir(parents=True)
    (container / "new" / "postgresql.conf").write_text("archive_command = false\n")
    (container / "new" / "postgresql.conf.origin").write_text("archive_command = 'x'\nhba_file = '/etc/hba'\n")
    (container / "new" / "postgresql.auto.conf").write_text("work_mem = '8MB'\nrestore_command = 'y'\n")
    assert list(place_data.place(places, 15)) == ["postgresql.conf is the backed-up server's: hba_file = '/etc/hba'"]
    assert (data / "postgresql.conf").read_text() == "archive_command = 'x'\nhba_file = '/etc/hba'\n"
    assert (data / "postgresql.auto.conf").read_text() == "work_mem = '8MB'\n"


@pytest.mark.parametrize(
    ("words", "left"),
    [([], {"main", "new"}), (["discard"], {"new"}), (["empty"], {"main"}), (["delta", "discard"], {"new"})],
)
def test_room_with_begun_copy(tmp_path: Path, words: List[str], left: set[str]) -> None:
    data, new = tmp_path / "main", tmp_path / "main.rebuild" / "new"
    for folder in (data, new):
        folder.mkdir(parents=True)
    place_data.main("clear", str(data), str(new.parent), "15", *words)
    assert {path.name for path in (data, new) if path.exists()} == left


def test_discarded_directory_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no server with half of what is to be removed, and go on the next time."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    for folder in (data, container):
        folder.mkdir()
    (data / "PG_VERSION").write_text("15")
    words = ("clear", str(data), str(container), "15", "discard")
    with monkeypatch.context() as patched:
        patched.setattr(place_data.shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError(16, "busy", path)))
        with pytest.raises(OSError, match="busy"):
            place_data.main(*words)
    assert not data.exists()
    place_data.main(*words)
    assert list(container.iterdir()) == []


@pytest.mark.parametrize(("version", "expected"), [(11, "primary_conninfo = 'host=angus'\n"), (15, None)])
def test_recovery_conf(tmp_path: Path, version: int, expected: Optional[str]) -> None:
    """Give back how to stream, and leave restore_command to the role."""
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    data.mkdir()
    (data / "PG_VERSION").write_text(str(version))
    for name in ("recovery.conf", "postgresql.auto.conf"):
        (data / name).write_text("primary_conninfo = 'host=angus'\nrestore_command = 'x'\n")
    places = place_data.Places(str(data), str(container))
    place_data.keep(places)
    (container / "new" / "pg_wal").mkdir(parents=True)
    list(place_data.place(places, version))
    assert (data / "postgresql.auto.conf").read_text() == "primary_conninfo = 'host=angus'\n"
    found = data / "recovery.conf"
    assert (found.read_text() if found.exists() else None) == expected


@pytest.mark.parametrize(("new", "rate"), [(GIB, 5_000_000), (GIB // 10, 0)])
def test_rate_of_a_backup_with_little_new(new: int, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no rate from a backup that has copied a part of its files (reuse_backup)."""
    base = {
        "throughput_bytes": 5_000_000.0,
        "backup_size_bytes": new,
        "begin_wal": "0" * 24,
        "end_time_timestamp": "1",
    }
    shown = {
        "cluster_size_bytes": GIB,
        "base_backup_information": base,
        "postgresql_version": "150004",
        "tablespaces": [],
    }
    barman = examine_backup.Barman("angus", "")
    monkeypatch.setattr(barman, "ask", lambda command, *_: {} if command == "list-backup" else shown)
    monkeypatch.setattr(barman, "run", lambda *_: "/b/1/data/PG_VERSION\n")
    monkeypatch.setattr(examine_backup, "choose", lambda *_: "1")
    control = SimpleNamespace(system_identifier=7, segment_size=SIZE)
    monkeypatch.setattr("walbasin.local.data_directory.read", lambda _: control)
    assert barman.find_backup("").rate == rate


def test_delta_uses_old_directory(tmp_path: Path) -> None:
    data, container = tmp_path / "main", tmp_path / "main.rebuild"
    data.mkdir()
    container.mkdir()
    (data / "PG_VERSION").write_text("15")
    place_data.main("clear", str(data), str(container), "15", "delta", "discard")
    assert not data.exists()
    assert (container / "new" / "PG_VERSION").exists()


# --- what is refused


def known(**changes: Any) -> Dict[str, Any]:
    """Return what was found of a standby that can be rebuilt, with these changes.

    Names with a dot (found__size) change one value of what a script has said.
    """
    found: Dict[str, Any] = {
        "is_there": True,
        "is_link": False,
        "is_mount": False,
        "is_empty": False,
        "has_version": True,
        "size": GIB,
        "is_begun": False,
        "begun": 0,
        "free": 10 * GIB,
        "can_write": True,
        "has_conninfo": True,
        "tablespaces": {},
        "system_identifier": 7,
        "timeline": 1,
        "lsn": 500,
        "history": [],
    }
    source: Dict[str, Any] = {
        "backup": {
            "name": "20261129T001817",
            "size": GIB,
            "rate": 0,
            "begin_wal": "000000010000000000000002",
            "finished": 1795911501,
            "version": 15,
            "system_identifier": 7,
            "segment_size": SIZE,
            "tablespaces": {},
        },
        "wal": {"newest": segments(9, 9)[0], "bytes": 8 * SIZE, "missing": "", "later": "", "abandoned": 0},
        "primary": {"timeline": 1, "lsn": 900},
        "verb": "recover",
        "can_delta": False,
        "needs_empty": False,
        "diverged_at": 0,
    }
    is_running = changes.pop("running", None)
    variables = {name: value for name, value in changes.items() if "__" not in name.lstrip("_")}
    for name, value in changes.items():
        kind, _, key = name.partition("__")
        if kind == "found":
            found[key] = value
        elif kind in source and isinstance(source[kind], dict) and key:
            source[kind] = {**source[kind], key: value}
        elif kind == "source":
            source[key] = value
    return {
        "__standby_rebuild_data": DATA,
        "__standby_lsclusters": {"stdout_lines": []},
        "__standby_recorded": {},
        "__standby_rebuild_found": found,
        "__standby_rebuild_barman": "barman",
        "__standby_rebuild_source": source,
        "__standby_rebuild_programs": {"rc": 0},
        "__standby_rebuild_service": {"rc": 0},
        "__standby_version": 15,
        "__standby_data": DATA,
        "__standby_unit": {"stdout": ""},
        "__standby_rebuild_asked": {"skipped": True},
        "__standby_processes": {"stdout": ""},
        "__standby_data_listing": {"files": []},
        "__standby_running": is_running is not None,
        "__standby_server_answers": is_running is not None,
        "__standby_server_state": {"in_recovery": is_running == "standby"},
        **variables,
    }


def tablespace(**changes: bool) -> Dict[str, Any]:
    """Return changes for `known`: a tablespace, and what is in its folder."""
    there = {"is_used": False, "is_foreign": False, "is_kept": False, "is_real": True, "can_write": True, **changes}
    return {"backup__tablespaces": {"fast": "/srv/fast"}, "found__tablespaces": {"/srv/fast": there}}


def refusals(**changes: Any) -> List[str]:
    return list(value_of("__standby_rebuild_refusals", **known(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"running": "standby"},
        # Promoted by mistake: the primary that Barman reaches is another one.
        {"running": "primary", "found__timeline": 2, "source__diverged_at": 400},
        {"source__diverged_at": 400, "found__timeline": 2},
        # Nothing is left of it.
        {"found__is_there": False, "found__has_version": False, "found__lsn": 0, "found__system_identifier": 0},
        {"found__lsn": 0, "found__has_version": False, "source__primary": None, "found__system_identifier": 0},
        {"found__has_conninfo": False, "standby_primary_conninfo": "host=angus"},
        {"found__free": 0, "rebuild_discard_old": True, "found__size": 3 * GIB},
        {"found__free": 0, "found__begun": 3 * GIB, "found__is_begun": True},
        {"wal__abandoned": 2, "standby_recovery_target_timeline": "1"},
    ],
)
def test_rebuild(changes: Dict[str, Any]) -> None:
    assert refusals(**changes) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"running": "primary"}, "it is the primary"),
        ({"running": "primary", "source__primary": None}, "A primary is never rebuilt"),
        ({"running": "primary", "found__timeline": 2, "source__primary": None}, "Barman reaches no other primary"),
        ({"source__primary": None}, "nobody can say whether"),
        ({"source__diverged_at": 400}, "WAL that the primary lost .behind 0/190."),
        (
            {"source__diverged_at": 400, "found__timeline": 2, "rebuild_discard_old": True},
            "data of its own behind 0/190, and rebuild_discard_old",
        ),
        ({"__standby_processes": {"stdout": "12 /usr/bin/python3 /usr/bin/patroni /etc/p.yml"}}, "patronictl reinit"),
        ({"__standby_processes": {"stdout": "12 /usr/bin/stolon-keeper"}}, "stolon-keeper manages it"),
        ({"running": "standby", "__standby_server_answers": False}, "runs there and does not answer"),
        ({"__standby_rebuild_programs": {"rc": 127, "stdout": ""}}, "PostgreSQL 15 is not installed"),
        (
            {"__standby_rebuild_programs": {"rc": 1, "stdout": "/usr/bin/postgres\n/usr/bin/psql\n"}},
            "rsync is not installed",
        ),
        ({"__standby_rebuild_service": {"rc": 1}}, "nobody knows which service starts"),
        # Debian's postgresql.service starts and stops all clusters of a host.
        (
            {"__standby_lsclusters": {"stdout_lines": ["15 other 5432 online postgres /srv/other x"]}},
            "Set standby_service",
        ),
        ({"found__system_identifier": 8}, "is of another cluster"),
        ({"wal__missing": segments(5, 5)[0], "wal__later": segments(6, 6)[0]}, "has a gap: 000000010000000000000005"),
        ({"wal__missing": segments(2, 2)[0]}, "with which the backup begins"),
        ({"wal__abandoned": 2}, "Remove 00000002.history"),
        ({"found__is_link": True}, "is a link"),
        ({"found__is_mount": True}, "the root of a filesystem"),
        ({"found__can_write": False}, "may not make"),
        ({"found__free": GIB}, "no room.* needs 2.05 GB, and 1.00 GB are free. With rebuild_discard_old=true"),
        ({"found__free": GIB, "found__size": 0, "rebuild_discard_old": True}, "there is no room"),
        ({"found__has_conninfo": False}, "Set standby_primary_conninfo"),
        ({"rebuild_tablespaces": {"slow": "/srv/slow"}}, "names slow, which the backup does not have"),
        (
            tablespace(is_used=True),
            "/srv/fast is not empty",
        ),
    ],
)
def test_refusal(changes: Dict[str, Any], words: str) -> None:
    assert any(re.search(words, each) for each in refusals(**changes)), refusals(**changes)


@pytest.mark.parametrize(
    ("is_used", "is_foreign", "changes", "is_refused"),
    [
        (False, False, {}, False),
        (True, False, {}, True),
        (True, False, {"rebuild_discard_old": True}, False),
        (True, True, {"rebuild_discard_old": True}, True),
        (True, False, {"rebuild_discard_old": True, "source__needs_empty": True}, True),
        (True, False, {"rebuild_discard_old": True, "source__needs_empty": True, "source__can_delta": True}, False),
        (True, False, {"found__is_begun": True}, False),
    ],
)
def test_used_tablespace(is_used: bool, is_foreign: bool, changes: Dict[str, Any], is_refused: bool) -> None:
    assert bool(refusals(**tablespace(is_used=is_used, is_foreign=is_foreign), **changes)) == is_refused


@pytest.mark.parametrize(("discards", "is_refused"), [(False, True), (True, False)])
def test_tablespace_of_kept_directory(discards: bool, is_refused: bool) -> None:
    """Go on after an interruption, but not over what a kept directory has there."""
    kept = tablespace(is_used=True, is_kept=True)
    assert bool(refusals(**kept, found__is_begun=True, rebuild_discard_old=discards)) == is_refused


@pytest.mark.parametrize(
    ("changes", "is_delta"),
    [
        ({}, False),
        ({"rebuild_discard_old": True}, False),
        ({"source__can_delta": True}, False),
        ({"source__can_delta": True, "rebuild_discard_old": True}, True),
        ({"source__can_delta": True, "rebuild_discard_old": True, "found__is_there": False}, False),
        ({"source__can_delta": True, "found__is_begun": True}, True),
    ],
)
def test_delta(changes: Dict[str, Any], is_delta: bool) -> None:
    assert value_of("__standby_rebuild_is_delta", **known(**changes)) == is_delta


@pytest.mark.parametrize(
    ("changes", "is_understood"),
    [
        ({}, True),
        ({"backup__name": "--help"}, False),
        ({"backup__name": "a b"}, False),
        ({"backup__begin_wal": "x"}, False),
        ({"source__verb": "sh"}, False),
        ({"wal__newest": "../x"}, False),
        ({"backup__tablespaces": {"fast": "/srv/fast"}}, True),
        ({"backup__tablespaces": {"a:b": "/srv/fast"}}, False),
        ({"backup__tablespaces": {"fast": "/srv/../etc"}}, False),
        ({"backup__tablespaces": {"fast": "/srv/$(id)"}}, False),
        ({"backup__tablespaces": {"fast": "relative"}}, False),
    ],
)
def test_words_of_barman_host(changes: Dict[str, Any], is_understood: bool) -> None:
    """Use nothing that a Barman host says in another form than the usual one."""
    assert value_of("__standby_rebuild_is_understood", **known(**changes)) == is_understood


@pytest.mark.parametrize(
    ("given", "recorded", "clusters", "version", "found"),
    [
        ("/srv/pg/", "", [], "", ["/srv/pg"]),
        ("", "/srv/recorded", [f"15 main 5432 down postgres {DATA} x"], "", ["/srv/recorded"]),
        ("", "", [f"15 main 5432 down <unknown> {DATA} x"], "", [DATA]),
        ("", "", [f"15 main 5432 down <unknown> {DATA} x", "14 main 5433 down <unknown> /old x"], "15", [DATA]),
        ("", "", [f"15 main 5432 down <unknown> {DATA} x", "14 main 5433 down <unknown> /old x"], "", [DATA, "/old"]),
        ("", "", [], "", []),
    ],
)
def test_data_directory(given: str, recorded: str, clusters: List[str], version: str, found: List[str]) -> None:
    assert (
        value_of(
            "__standby_rebuild_candidates",
            standby_data_directory=given,
            standby_postgres_version=version,
            __standby_recorded_data=recorded,
            __standby_lsclusters={"stdout_lines": clusters},
        )
        == found
    )


def test_plan() -> None:
    plan = "\n".join(value_of("__standby_rebuild_plan", **known(backup__rate=2 * MIB)))
    assert "backup: 20261129T001817 of angus on barman, 1.00 GB" in plan
    assert "copy: barman recover, about 8 min at 2.00 MB/s (the rate at which Barman took it)" in plan
    assert f"old data directory: 1.00 GB, kept in {DATA}.rebuild" in plan


def test_second_barman_host() -> None:
    """Take the first that has a backup."""
    source = known()["__standby_rebuild_source"]
    answers = {"barman": {"error": "it has no backup that is DONE"}, "barman2": source}
    assert value_of("__standby_rebuild_barman", __standby_rebuild_barmans=answers) == "barman2"
    answers = {"barman": {"error": "it has no backup"}, "barman2": {"error": "not understood"}}
    assert value_of("__standby_rebuild_barman", __standby_rebuild_barmans=answers) == ""
    text = value_of("__standby_rebuild_errors", __standby_rebuild_barmans=answers)
    assert text == "barman: it has no backup; barman2: not understood"


def test_specification() -> None:
    specs = load(ROLE / "meta/argument_specs.yml")["argument_specs"]
    own = {name for name in specs["rebuild"]["options"] if name.startswith("rebuild_")}
    assert own == {"rebuild_confirm", "rebuild_backup", "rebuild_discard_old", "rebuild_tablespaces"}
    assert set(specs["rebuild"]["options"]) - own == set(specs["main"]["options"])


@pytest.mark.parametrize("options", [[], ["-e", "rebuild_standby=zoe"], ["-e", "rebuild_standby=standbys"]])
def test_not_one_standby(options: List[str]) -> None:
    """Refuse to do nothing, or more than one."""
    inventory = str(ROOT / "molecule/shared/inventory")
    playbook = [sys.executable, "-m", "ansible", "playbook", "-i", inventory]
    ran = subprocess.run(
        [*playbook, *options, str(ROOT / "playbooks/rebuild.yml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 2
    assert "Name one standby of the inventory: -e rebuild_standby=HOST" in ran.stdout + ran.stderr
