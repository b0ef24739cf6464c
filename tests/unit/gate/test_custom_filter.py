"""Undo what a filter of Barman's configuration has made of WAL."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from walbasin.gate import barman_config, child, client, custom_filter
from walbasin.gate.custom_filter import Filter, FilterFailed

from tests.support.wal_builder import MIB, build_segment

SEGMENT = "00000001000000000000000A"
HISTORY = "00000002.history"
CONTENT = build_segment(SEGMENT, size=MIB)
CUSTOM = "compression = custom\ncustom_decompression_filter = tail -c +5\n"


@pytest.mark.parametrize(
    ("for_all", "server", "model", "expected"),
    [
        ("", "", "", None),
        ("", CUSTOM, "", Filter("tail -c +5", b"", "")),
        (CUSTOM, "", "", Filter("tail -c +5", b"", "")),
        (CUSTOM, "compression = gzip", "", None),
        ("", "custom_decompression_filter = tail -c +5", "", None),
        ("", "compression = custom", "", None),
        ("", CUSTOM + "custom_compression_magic = 0x57414C58\n", "", Filter("tail -c +5", b"WALX", "")),
        ("", CUSTOM + "custom_compression_magic = 0xno\n", "", None),
        ("", CUSTOM + "custom_compression_magic = 0xé\n", "", None),
        ("", CUSTOM.replace("custom\n", "Custom\n"), "", Filter("tail -c +5", b"", "")),
        (CUSTOM, "compression =", "", None),
        ("", CUSTOM, "compression =", Filter("tail -c +5", b"", "")),
        ("path_prefix = /opt/bin", CUSTOM, "", Filter("tail -c +5", b"", "/opt/bin")),
        ("", "custom_decompression_filter = 'tail -c +5'", "compression = custom", Filter("tail -c +5", b"", "")),
    ],
)
def test_find_filter(tmp_path: Path, for_all: str, server: str, model: str, expected: Filter | None) -> None:
    file = tmp_path / "barman.conf"
    file.write_text(
        f"[barman]\nbarman_home = {tmp_path}\n{for_all}\n[angus]\n{server}\n[angus:other]\nmodel = true\n{model}\n"
    )
    (tmp_path / "angus").mkdir()
    if model:
        (tmp_path / "angus" / ".active-model.auto").write_text("angus:other")
    assert custom_filter.find_filter(barman_config.read_config(str(file), "angus"), "angus") == expected


def undo(found: Filter, name: str, stored: bytes, on_wait: Callable[[], None] = lambda: None) -> bytes:
    """Return what a filter makes of a file. Raises as custom_filter.undo."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as output, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "STDOUT", output.fileno())
        file.write(stored)
        file.seek(0)
        with custom_filter.undo(found, name, file.fileno(), on_wait) as undone:
            return undone.read()


@pytest.mark.parametrize(
    ("command", "name", "stored", "expected"),
    [
        ("tail -c +5", SEGMENT, b"WALX" + CONTENT, CONTENT),
        ('tail -c +5 "$1"', SEGMENT, b"WALX" + CONTENT, CONTENT),
        ("true; tail -c +5", SEGMENT, b"WALX" + CONTENT, CONTENT),
        ("tail -c +5", HISTORY, b"WALX1\t0/3000000\n", b"1\t0/3000000\n"),
    ],
)
def test_undo(command: str, name: str, stored: bytes, expected: bytes) -> None:
    assert undo(Filter(command, b"", ""), name, stored) == expected


@pytest.mark.parametrize(
    ("command", "name", "stored", "reason"),
    [
        ("tail -c +4", SEGMENT, b"WALX" + CONTENT, "does not begin with a WAL page header"),
        ("tail -c +5", SEGMENT, b"WALX" + CONTENT[:-1], "where a segment has"),
        ("tail -c +4", HISTORY, b"WALX1\t0/3000000\n", "not a timeline history"),
        ("tail -c +5; exit 1", SEGMENT, b"WALX" + CONTENT, "status 1"),
        ("true", SEGMENT, b"WALX" + CONTENT, "too short"),
        ("no-such-program", SEGMENT, b"WALX" + CONTENT, "status 127"),
        ("tail -c +5; cat /dev/zero", SEGMENT, b"WALX" + CONTENT, "more than"),
    ],
)
def test_no_wal(command: str, name: str, stored: bytes, reason: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FilterFailed, match=reason):
        undo(Filter(command, b"", ""), name, stored)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("pause", ["sleep 2", "for each in 1 2 3 4 5 6 7 8 9; do printf %s $each; sleep 0.2; done"])
def test_slow(pause: str) -> None:
    """Tell that a slow filter is at work, whether something comes or not."""
    signs: list[None] = []
    with pytest.raises(FilterFailed):
        undo(Filter(f"{pause}; cat", b"", ""), SEGMENT, b"", lambda: signs.append(None))
    assert len(signs) >= 4


@pytest.mark.parametrize("command", ["sleep 60", "exec >&-; sleep 60"])
def test_hanging(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "SILENCE_LIMIT", 1)
    with pytest.raises(child.ProgramFailed, match="custom_decompression_filter: "):
        undo(Filter(command, b"", ""), SEGMENT, b"")


@pytest.mark.parametrize(("magic", "is_for"), [(b"", True), (b"WALX", True), (b"WALY", False)])
def test_magic(magic: bytes, is_for: bool) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"WALX")
        file.flush()
        assert Filter("cat", magic, "").is_for(file.fileno()) == is_for


def test_path_prefix(tmp_path: Path) -> None:
    """Find the program of a filter where Barman would."""
    program = tmp_path / "unwalx"
    program.write_text("#!/bin/sh\nexec tail -c +5\n")
    program.chmod(0o755)
    assert undo(Filter("unwalx", b"", str(tmp_path)), SEGMENT, b"WALX" + CONTENT) == CONTENT
    with pytest.raises(FilterFailed):
        undo(Filter("unwalx", b"", ""), SEGMENT, b"WALX" + CONTENT)
