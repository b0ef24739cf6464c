"""Test that standbys are asked side by side."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.hosts import read_clusters
from console.status import Row
from console.survey import MOST_ASKED, RETRY_INTERVAL, Survey, Throttle
from console.text import ConsoleError
from tests.support.console_standby import FORBIDDEN, HOSTILE, RECORD, Answering, answers, shown, snapshot
from tests.support.processes import wait_until


def rows_of(answer: str) -> list[Row]:
    """Return the rows of two standbys, of which the first gives this answer."""
    well = snapshot(0, {}, {})
    hosts = [
        Answering({"standby.json": RECORD, "--status": text, "get-wal": ""})
        for text in (answer, f"{json.dumps(well.postgres)}\n{json.dumps(well.fetcher)}\n")
    ]
    hosts[1].name = "dora"
    fleet = SimpleNamespace(standbys=hosts, clusters_on=lambda host: read_clusters(host, RECORD, ""))
    with Survey(fleet) as survey:  # type: ignore[arg-type]
        survey.rows()
        return survey.rows()


class Pausing(Answering):
    """Answer well, or not at all, when a test lets it."""

    def __init__(self, name: str, is_well: bool = True) -> None:
        well = snapshot(0, {}, {})
        super().__init__({"--status": f"{json.dumps(well.postgres)}\n{json.dumps(well.fetcher)}\n", "get-wal": ""})
        self.name = name
        self.is_well = is_well
        self.may_answer = threading.Event()

    def run(self, *words: str, **how: Any) -> str:
        self.asked.append("")
        assert self.may_answer.wait(20)
        if not self.is_well:
            raise ConsoleError(f"{self.name}: Connection timed out")
        return super().run(*words, **how)


def survey_of(hosts: "list[Pausing]", wait_limit: "float | None" = None) -> Survey:
    fleet = SimpleNamespace(standbys=hosts, clusters_on=lambda host: read_clusters(host, RECORD, ""))
    return Survey(fleet, wait_limit)  # type: ignore[arg-type]


def roles(rows: list[Row]) -> dict[str, str]:
    return {row.standby: row.role for row in rows}


def test_survey_side_by_side() -> None:
    """Ask as many standbys at once as may be, and no more."""
    hosts = [Pausing(f"h{number}") for number in range(MOST_ASKED + 5)]
    with survey_of(hosts) as survey, ThreadPoolExecutor() as pool:
        rows = pool.submit(survey.rows)
        wait_until(lambda: sum(len(host.asked) for host in hosts) == MOST_ASKED, "all the first")
        time.sleep(0.1)
        assert sum(len(host.asked) for host in hosts) == MOST_ASKED
        for host in hosts:
            host.may_answer.set()
        assert list(roles(rows.result(20))) == [host.name for host in hosts]
    assert set(roles(rows.result()).values()) == {"restoring"}


def test_survey_of_what_is_down() -> None:
    """Ask a standby that is down again, but not in each round."""
    well, down = hosts = [Pausing("chris"), Pausing("dora", is_well=False)]
    for host in hosts:
        host.may_answer.set()
    with survey_of(hosts) as survey:
        for _ in range(3):
            assert roles(survey.rows()) == {"chris": "restoring", "dora": "down"}
        assert len(down.asked) == 1
        assert len(well.asked) > 2
        survey._failed_at["dora"] -= RETRY_INTERVAL
        down.is_well = True
        assert roles(survey.rows()) == {"chris": "restoring", "dora": "restoring"}


def test_survey_with_wait_limit() -> None:
    """Wait for a silent standby once, and show it again when it answers."""
    well, silent = hosts = [Pausing("chris"), Pausing("dora")]
    well.may_answer.set()
    with survey_of(hosts, wait_limit=0.5) as survey:
        first, second = survey.rows(), None
        assert roles(first) == {"chris": "restoring", "dora": "down"}
        assert "has not answered" in first[1].problems[0]
        began = time.monotonic()
        second = survey.rows()
        assert (roles(second), time.monotonic() - began < 0.4) == (roles(first), True)
        silent.may_answer.set()
        wait_until(lambda: roles(survey.rows())["dora"] == "restoring", "an answer", step=0.05)
        silent.may_answer.clear()
        assert roles(survey.rows())["dora"] == "down"
        silent.may_answer.set()


@pytest.mark.parametrize(("held", "seconds"), [(0.05, 0.3), (1.5, 2.5)])
def test_throttle(held: float, seconds: float) -> None:
    """Let two in at a time, and more when these two take longer than they should."""
    throttle = Throttle(2, 0.5)
    inside: list[int] = []

    def enter(_: int) -> int:
        with throttle.acquire_slot("barman"):
            inside.append(0)
            seen = len(inside)
            time.sleep(held)
            inside.pop()
        return seen

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool, throttle.acquire_slot("barman2"):
        most = max(pool.map(enter, range(6)))
    assert (most <= 2) == (held < 0.5)
    assert abs(time.monotonic() - began - seconds) < 1


@given(answers() | st.text() | st.sampled_from(["", HOSTILE, "[]\n[]", "[" * 100_000, "{}\n{}", "1e999\n1e999"]))
def test_row_of_any_answer(answer: str) -> None:
    chris, dora = rows_of(answer)
    assert (chris.standby, dora.standby, dora.role, dora.problems) == ("chris", "dora", "restoring", ())
    if chris.role == "down":
        assert chris.problems[0].startswith("not understood: ")
    json.dumps(chris._asdict(), allow_nan=False)
    text = shown([chris, dora], {"chris": 1, "dora": 1})
    assert FORBIDDEN.search(text) is None
    assert len(text) < 20_000
