"""Read the sections that are wanted of a configuration, and no others."""

import configparser
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walbasin.gate import barman_config

WANTED = {"barman", "DEFAULT", "angus"}
LINES = [
    *("", " ", "\t", "# c", " ; c", "\x0c", "\u00a0", "\ufeff"),
    *("nonsense", " nonsense", "  nonsense", "=", " = 1", "a", "\ta"),
    *(f"{indent}{header}" for indent in ("", " ", "  ") for header in ("[angus]", "[b]", "[barman] # c", "[DEFAULT]")),
    *("[Angus]", "[ angus ]", "[angus", "angus]"),
    *("[]", "[[angus]]", "[angus]]", "[angus] [b]", "[b] [angus]", "[angus=1"),
    *(f"{indent}{option}" for indent in ("", " ", "  ", "\t") for option in ("a = 1", "b: 2", "A=3", "a =", "b = [b]")),
    *("9 = 1", "-a = 1", "a b = c", "a = 1 # c", "\u00a0a = 1", "\u00e4 = 1", "a = \u00e4"),
    *("a\x85b = 1", "a = 1\r", "\x00 = 1"),
]  # fmt: skip


def parsed(text: str) -> "dict[str, dict[str, str]] | str":
    """Return the wanted sections as configparser reads them, or its error."""
    config = configparser.ConfigParser(strict=False)
    try:
        config.read_string(text)
    except configparser.Error as error:
        return type(error).__name__
    defaults = dict(config.defaults())
    return {name: dict(config.items(name, raw=True)) for name in config.sections() if name in WANTED} | {"": defaults}


@given(st.lists(st.sampled_from(LINES), max_size=12), st.sampled_from(["", "\n"]))
def test_select(lines: list[str], end: str) -> None:
    text = "\n".join(lines) + end
    assert parsed(barman_config.select(text, WANTED)) == parsed(text)


def test_unwanted_sections() -> None:
    text = "# c\n[b]\na = 1\n  2\n\n[angus]\n  a = 1\n\n# [b]\n[c]\n\tb = [angus]\n"
    assert barman_config.select(text, {"angus"}) == "[angus]\n  a = 1\n\n# [b]\n"


@pytest.mark.parametrize("line", ["a = 1\n", "  a = 1\n", "a = 1\n  b\n", "# c\n", "\n", "[b]\n"])
def test_long_file(line: str) -> None:
    """Take a time that grows with the length alone."""
    began = time.process_time()
    assert barman_config.select("[b]\n" + line * 100_000 + "[angus]\na = 1\n", {"angus"}) == "[angus]\na = 1\n"
    assert time.process_time() - began < 3


def test_each_file_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.conf").write_text("[angus]\nx = 1\n")
    (tmp_path / "main").write_text(f"[barman]\nconfiguration_files_directory = {tmp_path}\n")
    opened = []

    def counted(path: str) -> object:
        opened.append(path)
        return open(path, encoding="utf-8")

    monkeypatch.setattr(barman_config, "open", counted, raising=False)
    config = barman_config.read_config(str(tmp_path / "main"), "angus")
    assert [reading["angus"]["x"] for reading in config.readings] == ["1", "1"]
    assert opened == [str(tmp_path / "main"), str(tmp_path / "a.conf")]
