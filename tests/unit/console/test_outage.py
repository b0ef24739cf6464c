"""Test that an outage is undone in every case."""

from typing import Any

import pytest

from console import outage as outages
from console.hosts import Cluster
from console.outage import Interruption, outage
from console.text import ConsoleError
from tests.support.console_standby import CHRIS, Answering

INTERRUPTION = Interruption(check="check", make="make", undo="undo $1", words=("a $b",), text="the rule")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "UNDO_PAUSE", 0)


class Failing(Answering):
    """Answer all but the commands that a test names, some times."""

    def __init__(self, **failures: int) -> None:
        super().__init__({"": ""})
        self.failures = failures
        self.stdin: list[str] = []

    def run(self, *words: str, **options: Any) -> str:
        answer = super().run(*words, **options)
        self.stdin.append(options.get("stdin", ""))
        for word in self.failures:
            if self.failures[word] and any(word in each for each in words):
                self.failures[word] -= 1
                raise ConsoleError(f"chris: {word} failed")
        return answer

    def steps(self) -> list[str]:
        """Return what was run, a word for each command."""
        known = ("systemd-run", "systemctl stop", "check", "make", "undo")
        return [next(word for word in known if word in asked) for asked in self.asked]


def rehearse(host: Failing) -> list[str]:
    """Return what was told while the standby was cut off."""
    told: list[str] = []
    with outage(Cluster("chris", host, CHRIS), INTERRUPTION, 40, told.append):
        host.asked.append("make: the outage")
    return told


def test_outage() -> None:
    host = Failing()
    assert rehearse(host) == []
    assert host.steps() == ["check", "systemd-run", "make", "make", "undo", "systemctl stop"]


def test_script_of_the_timer() -> None:
    """Keep from systemd what it would expand."""
    host = Failing()
    rehearse(host)
    assert host.asked[1].endswith(" sh 40")
    assert host.stdin[1] == "set -- 'a $b'\n(\nundo $1\n) && rm -f /run/walbasin-drill.sh\n"
    assert "$b" not in host.asked[1]


@pytest.mark.parametrize("word", ["check", "systemd-run"])
def test_failure_before_the_outage(word: str) -> None:
    """Undo nothing: another drill may be on its way."""
    host = Failing(**{word: 1})
    with pytest.raises(ConsoleError, match=f"{word} failed"):
        rehearse(host)
    assert host.steps()[-1] == word


def test_outage_that_is_not_made() -> None:
    """Leave the timer: the command may still reach the host."""
    host = Failing(make=1)
    with pytest.raises(ConsoleError, match="make failed"):
        rehearse(host)
    assert host.steps() == ["check", "systemd-run", "make", "undo"]


def test_second_attempt_to_undo() -> None:
    host = Failing(**{"undo $1": 1})
    told = rehearse(host)
    assert [line for line in told if "attempt 1: chris: undo $1 failed" in line]
    assert host.steps()[-3:] == ["undo", "undo", "systemctl stop"]


def test_undo_that_never_succeeds() -> None:
    host = Failing(**{"undo $1": 9})
    told = rehearse(host)
    assert len(told) == 4
    assert told[-1] == "chris undoes it by itself, 40 seconds after it began at the latest"
    assert host.steps()[-1] == "undo"
