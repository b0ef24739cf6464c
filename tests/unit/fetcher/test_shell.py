"""Tie the options that barman-wal-restore's shell knows to those of options.py."""

import argparse
import re
import subprocess
from pathlib import Path

import pytest
from walbasin.fetcher import options

SCRIPT = Path(__file__).parents[3] / "files" / "barman-wal-restore"
# With these PostgreSQL does not call, so Python may answer them alone.
BY_HAND = {"-h", "--help", "-V", "--version", "-t", "--test", "--status", "--json", "--prometheus"}
ACTIONS = [action for action in options._parser()._actions if action.option_strings]
WORDS = [(word, action) for action in ACTIONS for word in action.option_strings if word not in BY_HAND]


def function(name: str) -> str:
    """Return a function of the script as it stands there."""
    match = re.search(rf"^{name}\(\) \{{\n.*?^\}}\n", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    assert match
    return match.group()


def parses(*words: str) -> bool:
    """Return whether the shell's option loop comes through to the four operands."""
    loop = re.search(r"^    while .*?^    done\n", function("enter_spool"), re.MULTILINE | re.DOTALL)
    assert loop
    program = f'loop() {{ dir=default\n{loop.group()}echo "$# $dir"; }}; loop "$@"'
    operands = ["barman", "angus", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]
    done = subprocess.run(
        ["sh", "-c", program, "sh", *words, *operands], stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout.startswith("4 ")


def value_for(action: argparse.Action) -> list[str]:
    """Return a value where an option takes one."""
    if action.nargs == 0:
        return []
    return [next(iter(action.choices or ["7"]))]


@pytest.mark.parametrize(("word", "action"), WORDS, ids=[word for word, _ in WORDS])
def test_option_known_to_shell(word: str, action: argparse.Action) -> None:
    assert parses(word, *value_for(action))
    assert parses(word, *value_for(action), "--keep-compression", "-p", "8"), "and what follows is read as well"


@pytest.mark.parametrize("word", sorted(BY_HAND))
def test_option_by_hand_left_to_python(word: str) -> None:
    assert not parses(word)


def test_option_unknown() -> None:
    assert not parses("--no-such-option")
    assert not parses("--no-such-option", "7")


def test_spool_dir_from_options_py() -> None:
    assert f"dir={options.SPOOL}\n" in function("enter_spool")
