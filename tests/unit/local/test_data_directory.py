import os
import subprocess
import sys
from pathlib import Path

import pytest
from walbasin import policy
from walbasin.local import data_directory
from walbasin.wal import segment

from tests.support.barman_host import FILES
from tests.support.wal_builder import FOREIGN, MIB, OURS, build_control, build_data_directory, build_segment, number


def read(folder: Path) -> data_directory.DataDirectory:
    found = data_directory.read(str(folder))
    assert found is not None
    return found


def test_identity(tmp_path: Path) -> None:
    folder = build_data_directory(tmp_path / "main", 15, OURS)
    found = read(folder)
    status = folder.stat()
    assert (found.major_version, found.system_identifier) == (15, OURS)
    assert (found.device, found.inode) == (status.st_dev, status.st_ino)


@pytest.mark.parametrize("damage", ["missing", "no pg_control", "short pg_control", "no PG_VERSION", "odd PG_VERSION"])
def test_damaged_data_directory(tmp_path: Path, damage: str) -> None:
    folder = build_data_directory(tmp_path / "main")
    if damage == "missing":
        folder = tmp_path / "other"
    elif damage == "no pg_control":
        (folder / "global" / "pg_control").unlink()
    elif damage == "short pg_control":
        (folder / "global" / "pg_control").write_bytes(bytes(7))
    elif damage == "no PG_VERSION":
        (folder / "PG_VERSION").unlink()
    else:
        (folder / "PG_VERSION").write_text("fifteen")
    assert data_directory.read(str(folder)) is None


def test_found_from_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_data_directory(tmp_path / "main")
    monkeypatch.chdir(folder)
    assert data_directory.find("pg_wal/RECOVERYXLOG") == read(folder)


def test_found_from_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = build_data_directory(tmp_path / "here", 15, FOREIGN)
    target = build_data_directory(tmp_path / "target", 15, OURS)
    monkeypatch.chdir(here)
    assert data_directory.find(str(target / "pg_wal" / "000000010000000000000001")) == read(target)


def test_pg_wal_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build_data_directory(tmp_path / "main")
    (folder / "pg_wal").rmdir()
    (tmp_path / "disk" / "wal").mkdir(parents=True)
    (folder / "pg_wal").symlink_to(tmp_path / "disk" / "wal")
    monkeypatch.chdir(tmp_path)
    assert data_directory.find(str(folder / "pg_wal" / "RECOVERYXLOG")) == read(folder)


def test_found_above_a_wrapper(tmp_path: Path) -> None:
    """Find the data directory of a process above, like PostgreSQL's startup process."""
    folder = build_data_directory(tmp_path / "main")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = f"import sys; sys.path.insert(0, {str(FILES)!r})\nfrom walbasin.local import data_directory\n"
    command = f'cd {elsewhere} && {sys.executable} -c "$1"; exit $?'
    done = subprocess.run(
        ["sh", "-c", f"({command}); true", "sh", f"{script}print(data_directory.find('x').path)"],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == f"{folder}\n"


def test_call_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_directory.find("some/folder/file") is None


@pytest.mark.parametrize(
    ("version", "files", "mode"),
    [
        (15, [], policy.STANDBY),
        (15, ["standby.signal"], policy.STANDBY),
        (15, ["recovery.signal"], policy.RECOVERY),
        (15, ["recovery.signal", "standby.signal"], policy.STANDBY),
        (12, ["recovery.signal"], policy.RECOVERY),
        (12, ["recovery.conf"], policy.STANDBY),  # 12 refuses to start with one
        (11, [], policy.STANDBY),
        (11, ["recovery.signal"], policy.STANDBY),  # a file that 11 knows nothing of
        (11, ["recovery.conf"], policy.RECOVERY),
        (10, ["recovery.conf"], policy.RECOVERY),
        (11, ["recovery.done"], policy.STANDBY),
    ],
)
def test_mode_from_signal_files(tmp_path: Path, version: int, files: list[str], mode: str) -> None:
    assert read(build_data_directory(tmp_path / "main", version, OURS, *files)).mode == mode


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("standby_mode = on", policy.STANDBY),
        ("standby_mode = 'on'", policy.STANDBY),
        ("STANDBY_MODE='ON'   # capitals", policy.STANDBY),
        ("standby_mode on", policy.STANDBY),
        ("  standby_mode = true", policy.STANDBY),
        ("standby_mode = tr", policy.STANDBY),  # PostgreSQL's parse_bool takes unique prefixes
        ("standby_mode = y", policy.STANDBY),
        ("standby_mode = 1", policy.STANDBY),
        ("standby_mode = off\nstandby_mode = on", policy.STANDBY),
        ("", policy.RECOVERY),
        ("# standby_mode = on", policy.RECOVERY),
        ("standby_mode = off", policy.RECOVERY),
        ("standby_mode = on\nstandby_mode = off", policy.RECOVERY),
        ("standby_mode = 0", policy.RECOVERY),
        ("standby_mode = no", policy.RECOVERY),
        ("standby_mode = false", policy.RECOVERY),
        ("restore_command = 'echo standby_mode = on'", policy.RECOVERY),
        ("not_standby_mode = on", policy.RECOVERY),
    ],
)
def test_mode_from_recovery_conf(tmp_path: Path, line: str, mode: str) -> None:
    folder = build_data_directory(tmp_path / "main", 11)
    (folder / "recovery.conf").write_text(f"restore_command = 'x %f %p'\n{line}\n")
    assert read(folder).mode == mode


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("port = 5432", {"port": "5432"}),
        ("port=5432#comment", {"port": "5432"}),
        ("port 5432", {"port": "5432"}),
        ("\tport\t=\t5432\t# comment", {"port": "5432"}),
        ("trigger_file = '/tmp/a # b'", {"trigger_file": "/tmp/a # b"}),
        ("trigger_file = '/tmp/it''s'", {"trigger_file": "/tmp/it's"}),
        (r"trigger_file = '/tmp/it\'s'", {"trigger_file": "/tmp/it's"}),
        (r"restore_command = 'a \\ b'", {"restore_command": r"a \ b"}),
        ("a = ''", {"a": ""}),
        ("a = 1\nA = 2", {"a": "2"}),
        ("plpgsql.extra_warnings = 'all'", {"plpgsql.extra_warnings": "all"}),
        ("#port = 5432\n\n   # more\n", {}),
        ("= 5\n5 = a\n", {}),
        ("a = 'never closed\nb = 1", {"b": "1"}),
    ],
)
def test_settings_grammar(text: str, values: dict[str, str]) -> None:
    assert data_directory.parse_settings(text) == values


@pytest.mark.parametrize(
    ("version", "file", "line", "trigger"),
    [
        (11, "recovery.conf", "trigger_file = '/tmp/go'", "/tmp/go"),
        (11, "recovery.conf", "trigger_file = 'go'", "{}/go"),  # relative to PGDATA
        (15, "postgresql.conf", "promote_trigger_file = '/tmp/go'", "/tmp/go"),
        (15, "postgresql.auto.conf", "promote_trigger_file = '/tmp/go'", "/tmp/go"),
        (15, "postmaster.opts", 'postgres "-D" "x" "-c" "promote_trigger_file=/tmp/go"', "/tmp/go"),
    ],
)
def test_promotion_files(tmp_path: Path, version: int, file: str, line: str, trigger: str) -> None:
    folder = build_data_directory(tmp_path / "main", version)
    assert data_directory.promotion_files(read(folder)) == [str(folder / "promote")]
    (folder / file).write_text(f"{line}\n")
    assert data_directory.promotion_files(read(folder)) == [str(folder / "promote"), trigger.format(folder)]


def test_included_settings(tmp_path: Path) -> None:
    """Read the files that PostgreSQL reads, in its order."""
    folder = build_data_directory(tmp_path / "main")
    etc = tmp_path / "etc"
    (etc / "conf.d").mkdir(parents=True)
    (folder / "postmaster.opts").write_text(f'/usr/bin/postgres "-D" "{folder}" "-c" "config_file={etc}/a.conf"\n')
    (folder / "postgresql.conf").write_text("recovery_target_timeline = 7\n")
    (etc / "a.conf").write_text("a = 1\nb = 1\ninclude_dir 'conf.d'\ninclude_if_exists = 'missing'\nc = 1\n")
    (etc / "conf.d" / "1.conf").write_text("b = 2\nc = 2\nd = 2\ninclude '1.conf'\n")
    (etc / "conf.d" / "ignored").write_text("a = 3\n")
    (folder / "postgresql.auto.conf").write_text("d = 3\n")
    found = data_directory.read_settings(read(folder))
    assert {name: found[name] for name in "abcd"} == {"a": "1", "b": "2", "c": "1", "d": "3"}
    assert "recovery_target_timeline" not in found


@pytest.mark.parametrize(
    ("version", "value", "expected"),
    [(15, "", None), (11, "", 1), (11, "latest", None), (15, "current", 1), (15, "3", 3), (15, "'3'", 3)],
)
def test_target_timeline(tmp_path: Path, version: int, value: str, expected: int | None) -> None:
    folder = build_data_directory(tmp_path / "main", version)
    file = folder / ("postgresql.auto.conf" if version >= 12 else "recovery.conf")
    file.write_text(f"recovery_target_timeline = {value}\n" if value else "")
    assert data_directory.target_timeline(read(folder), 1) == expected


@pytest.mark.parametrize("size", [1, 16, 64, 1024])
@pytest.mark.parametrize("version", range(10, 19))
def test_segment_size(tmp_path: Path, version: int, size: int) -> None:
    folder = build_data_directory(tmp_path / "main", version, segment_size=size * MIB)
    (folder / "pg_wal" / "000000010000000000000001").write_bytes(bytes(2 * MIB))
    assert read(folder).known_segment_size == read(folder).segment_size == size * MIB


def test_segment_size_from_pg_wal(tmp_path: Path) -> None:
    folder = build_data_directory(tmp_path / "main")
    assert (read(folder).segment_size, read(folder).known_segment_size) == (segment.DEFAULT_SIZE, None)
    (folder / "pg_wal" / "000000010000000000000001").write_bytes(b"not whole")
    (folder / "pg_wal" / "RECOVERYXLOG").write_bytes(bytes(2 * MIB))
    assert read(folder).known_segment_size is None
    (folder / "pg_wal" / "000000010000000000000002").write_bytes(bytes(MIB))
    assert (read(folder).segment_size, read(folder).known_segment_size) == (MIB, MIB)


@pytest.mark.parametrize("size", [0, 3 * MIB, MIB // 2, 2048 * MIB])
def test_impossible_segment_size(size: int) -> None:
    control = build_control(15, OURS, 16 * MIB).replace(number(16 * MIB, 4), number(size, 4))
    assert data_directory.parse_segment_size(control) is None
    assert data_directory.parse_segment_size(build_control(15, OURS, 16 * MIB)[:220]) is None


def test_recycled_segments(tmp_path: Path) -> None:
    folder = build_data_directory(tmp_path / "main")
    old, newer, reused, foreign = (f"00000001000000000000000{number}" for number in "3459")
    for name in (old, newer):
        (folder / "pg_wal" / name).write_bytes(build_segment(name))
    os.link(folder / "pg_wal" / old, folder / "pg_wal" / reused)
    (folder / "pg_wal" / foreign).write_bytes(build_segment(foreign, FOREIGN))
    assert list(data_directory.newest_segments(read(folder))) == [newer, old]


def test_histories(tmp_path: Path) -> None:
    folder = build_data_directory(tmp_path / "main")
    assert list(data_directory.read_histories(read(folder))) == []
    (folder / "pg_wal" / "00000003.history").write_text("1\t0/5000148\tfirst\n2\t1/0A000000\tsecond\n")
    (folder / "pg_wal" / "00000004.history").write_text("no history\n")
    assert list(data_directory.read_histories(read(folder))) == [(3, [(1, 0x5000148), (2, 0x10A000000)])]
