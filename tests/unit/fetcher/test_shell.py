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


OPERANDS = ["barman", "angus", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]


def parse(*words: str) -> str:
    """Return what the shell reads in a command line, or an empty string."""
    program = f'{function("parse")}parse "$@" && echo "$host $server $name $to $dir $look"'
    done = subprocess.run(["sh", "-c", program, "sh", *words], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip()


def parses(*words: str) -> bool:
    """Return whether the shell finds the operands behind, and before, some options."""
    expected = " ".join(OPERANDS)
    return all(parse(*line).startswith(expected) for line in ([*words, *OPERANDS], [*OPERANDS, *words]))


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


@pytest.mark.parametrize(
    ("words", "dir_and_look"),
    [
        ([], options.SPOOL),
        (["--spool-dir", "/a b"], "/a b"),
        (["--spool-dir=/x", "--spool-dir=/y"], "/y"),
        (["-zp8"], options.SPOOL),
        (["-zp", "8"], options.SPOOL),
        (["-Ubarman", "-s10"], options.SPOOL),
        (["-zPp8"], f"{options.SPOOL} 1"),
        (["--partial"], f"{options.SPOOL} 1"),
        (["--mode=recovery"], f"{options.SPOOL} 1"),
    ],
)
def test_values_read_by_shell(words: list[str], dir_and_look: str) -> None:
    assert parse(*words, *OPERANDS) == parse(*OPERANDS, *words) == f"{' '.join(OPERANDS)} {dir_and_look}"
    assert vars(options.parse([*words, *OPERANDS]))["wal_name"] == OPERANDS[2]


@pytest.mark.parametrize("words", [[], OPERANDS[:3], [*OPERANDS, "more"], [*OPERANDS, "--port"], [*OPERANDS, "-zp"]])
def test_incomplete_command_line(words: list[str]) -> None:
    assert parse(*words) == ""


@pytest.mark.parametrize("words", [["-p", "4"], ["-p4", "--port=7"], ["--para", "4"]])
def test_fingerprint_of_any_order(words: list[str]) -> None:
    """Take all calls of one restore_command for calls of the same one."""
    other = [*OPERANDS[:2], "00000002.history", "pg_wal/RECOVERYHISTORY"]
    fingerprints = {options.parse(line).fingerprint for line in ([*OPERANDS, *words], [*other, *words])}
    fingerprints |= {options.parse(line).fingerprint for line in ([*words, *OPERANDS], [*words, *other])}
    assert len(fingerprints) == 2
