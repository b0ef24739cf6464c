"""Undo what a filter of Barman's configuration has made of WAL."""

import os
import tempfile
from pathlib import Path

import pytest
from walbasin.gate import barman_config, client, custom_filter
from walbasin.gate.custom_filter import Filter

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


def undo(found: Filter, name: str, stored: bytes) -> bytes | None:
    """Return what a filter makes of a file, or None."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as output, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "STDOUT", output.fileno())
        file.write(stored)
        file.seek(0)
        with custom_filter.undo(found, name, file.fileno(), lambda: None) as undone:
            return None if undone is None else undone.read()


@pytest.mark.parametrize(
    ("command", "magic", "name", "stored", "expected"),
    [
        ("tail -c +5", b"", SEGMENT, b"WALX" + CONTENT, CONTENT),
        ("tail -c +5", b"WALX", SEGMENT, b"WALX" + CONTENT, CONTENT),
        ("tail -c +5", b"WALY", SEGMENT, b"WALX" + CONTENT, None),
        ("tail -c +5", b"", HISTORY, b"WALX1\t0/3000000\n", b"1\t0/3000000\n"),
        ("tail -c +4", b"", SEGMENT, b"WALX" + CONTENT, None),
        ("tail -c +4", b"", HISTORY, b"WALX1\t0/3000000\n", None),
        ("tail -c +5; exit 1", b"", SEGMENT, b"WALX" + CONTENT, None),
        ("true", b"", SEGMENT, b"WALX" + CONTENT, None),
        ("no-such-program", b"", SEGMENT, b"WALX" + CONTENT, None),
        ("tail -c +5; cat /dev/zero", b"", SEGMENT, b"WALX" + CONTENT, None),
    ],
)
def test_undo(command: str, magic: bytes, name: str, stored: bytes, expected: bytes | None) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert undo(Filter(command, magic, ""), name, stored) == expected
    assert len(os.listdir("/proc/self/fd")) == before


def test_path_prefix(tmp_path: Path) -> None:
    """Find the program of a filter where Barman would."""
    program = tmp_path / "unwalx"
    program.write_text("#!/bin/sh\nexec tail -c +5\n")
    program.chmod(0o755)
    assert undo(Filter("unwalx", b"", str(tmp_path)), SEGMENT, b"WALX" + CONTENT) == CONTENT
    assert undo(Filter("unwalx", b"", ""), SEGMENT, b"WALX" + CONTENT) is None
