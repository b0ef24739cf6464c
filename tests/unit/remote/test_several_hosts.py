"""Ask several hosts through sources that the test controls."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from walbasin.local import data_directory
from walbasin.local.host_memory import HostMemory
from walbasin.local.promotion import Promotion
from walbasin.local.spool import Spool
from walbasin.remote import several_hosts
from walbasin.remote.archive import Archive
from walbasin.remote.errors import (
    ConnectionLost,
    GivenUp,
    HostUnreachable,
    NotInArchive,
    ReadTimeout,
    RemoteError,
    Unconfirmed,
    Unheard,
)
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_fetch import SingleFetch
from walbasin.remote.several_hosts import SeveralHosts
from walbasin.remote.ssh import Remote
from walbasin.wal.getwal import Request
from walbasin.wal.incoming_file import IncomingFile
from walbasin.wal.segment import ForeignWal, InvalidWal

from tests.support.fake_source import FakeSource
from tests.support.wal_builder import build_data_directory

NAME, NEXT = "000000010000000000000001", "000000010000000000000002"
HISTORY = "00000002.history"
NO = NotInArchive()


class Bench:
    """Hold three hosts, what is said of them, and a clock."""

    def __init__(self, folder: Path, loop: EventLoop, monkeypatch: pytest.MonkeyPatch, is_standby: bool) -> None:
        self.promote = folder / "promote"
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        cluster = data_directory.read(str(build_data_directory(folder / "main")))
        assert cluster
        self.memory = HostMemory(Spool(str(folder / "spool"), cluster, "angus"))
        self.notices: list[str] = []
        self.sources = {name: FakeSource() for name in ("a", "b", "c")}
        self.loop = loop
        self.promotion = Promotion((str(self.promote),)) if is_standby else Promotion()
        self.hosts = self.make("a", "b")

    def make(self, *names: str) -> SeveralHosts:
        """Return the hosts anew, as another call of the program would."""
        request = Request("angus", "")
        archives = [Archive(Remote(name), request, None, self.promotion) for name in names]
        sources = [(each, self.sources[each.remote.host]) for each in archives]
        return SeveralHosts(sources, self.loop, self.memory, self.notices.append)

    def request(self, name: str = NAME) -> SingleFetch:
        file = io.BytesIO()
        fetch = SingleFetch(name, IncomingFile(file, lambda: file, 1 << 20))
        self.hosts.request(fetch)
        return fetch

    def asked(self, name: str = NAME) -> str:
        """Return which hosts were asked, how often, and forget it."""
        found = "".join(host * source.requested.count(name) for host, source in self.sources.items())
        for source in self.sources.values():
            source.requested.clear()
        return found

    def say(self, host: str, error: Exception | None, name: str = NAME) -> None:
        self.sources[host].handlers.pop(name).on_complete(error)

    def begin(self, host: str, name: str = NAME) -> None:
        self.sources[host].handlers[name].write(b"x" * 100)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.hosts.tick()


@pytest.fixture(params=[True, False], ids=["standby", "recovery"])
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Bench]:
    with EventLoop() as loop:
        yield Bench(tmp_path, loop, monkeypatch, request.param)


@pytest.fixture
def standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with EventLoop() as loop:
        yield Bench(tmp_path, loop, monkeypatch, is_standby=True)


def outcome_of(fetch: SingleFetch) -> type[BaseException] | None:
    assert fetch.is_complete
    return type(fetch.error) if fetch.error else None


def test_file_of_first_host(bench: Bench) -> None:
    fetch = bench.request()
    bench.begin("a")
    bench.say("a", None)
    assert (outcome_of(fetch), bench.asked()) == (None, "a")
    bench.hosts.on_stored(NAME)
    assert bench.notices == []


def test_second_host_asked_after_no(bench: Bench) -> None:
    fetch = bench.request()
    bench.say("a", NO)
    assert not fetch.is_complete
    assert bench.asked() == "ab"
    bench.say("b", None)
    assert outcome_of(fetch) is None
    bench.hosts.on_stored(NAME)
    assert bench.notices == ["a has none, b has it: a gap there, or it was trimmed"]


def test_all_asked_at_once_for_what_was_missing(bench: Bench) -> None:
    for expected in ("a", "ab"):
        fetch = bench.request()
        assert bench.asked() == expected
        bench.say("a", NO)
        bench.say("b", NO)
        assert outcome_of(fetch) is NotInArchive
        bench.asked()
    bench.request(NEXT)
    assert bench.asked(NEXT) == "a", "nothing is known of this one"


def test_histories_asked_of_all(bench: Bench) -> None:
    fetch = bench.request(HISTORY)
    assert bench.asked(HISTORY) == "ab"
    bench.say("b", NO, HISTORY)
    assert not fetch.is_complete
    bench.say("a", NO, HISTORY)
    assert outcome_of(fetch) is NotInArchive


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (NO, HostUnreachable("b is down"), Unconfirmed),
        (HostUnreachable("a is down"), NO, Unheard),
        (RemoteError("a failed"), NO, Unheard),
        (HostUnreachable("a is down"), HostUnreachable("b is down"), HostUnreachable),
        (ReadTimeout("a is silent"), HostUnreachable("b is down"), HostUnreachable),
        (RemoteError("a failed"), HostUnreachable("b is down"), RemoteError),
        (InvalidWal("short"), NO, InvalidWal),
    ],
)
def test_result(bench: Bench, first: Exception, second: Exception, expected: type[Exception]) -> None:
    fetch = bench.request()
    bench.say("a", first)
    bench.say("b", second)
    assert outcome_of(fetch) is expected
    assert not bench.hosts.has_another_way(NAME, fetch.error or NO)


def test_dead_host_skipped_for_a_while(standby: Bench) -> None:
    standby.request()
    standby.say("a", HostUnreachable("a is down"))
    standby.say("b", None)
    standby.hosts.on_stored(NAME)
    assert standby.notices == ["a is down: the WAL comes from b"]
    standby.asked()
    standby.hosts = standby.make("a", "b")
    fetch = standby.request(NEXT)
    assert standby.asked(NEXT) == "b"
    standby.say("b", NO, NEXT)
    assert outcome_of(fetch) is Unheard, "a may have it"
    standby.now += 16
    standby.request(NEXT)
    assert standby.asked(NEXT) == "ab"


def test_dead_host_asked_last_in_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hear it again before a point-in-time recovery is stopped."""
    with EventLoop() as loop:
        recovery = Bench(tmp_path, loop, monkeypatch, is_standby=False)
        recovery.memory.note_outage("a", "a is down")
        fetch = recovery.request()
        assert recovery.asked() == "b"
        recovery.say("b", NO)
        assert recovery.asked() == "a"
        recovery.say("a", NO)
        assert outcome_of(fetch) is NotInArchive


def test_all_hosts_dead(bench: Bench) -> None:
    for host in "ab":
        bench.memory.note_outage(host, "down")
    fetch = bench.request()
    for host in "ab":
        bench.say(host, HostUnreachable("down"))
    assert outcome_of(fetch) is HostUnreachable


def test_other_host_asked_first_for_a_minute(bench: Bench) -> None:
    bench.request()
    bench.say("a", HostUnreachable("a is down"))
    bench.say("b", None)
    bench.hosts.on_stored(NAME)
    bench.asked()
    bench.now += 30
    fetch = bench.request(NEXT)
    assert bench.asked(NEXT) == "b"
    bench.say("b", NO, NEXT)
    assert bench.asked(NEXT) == "a", "a 'no' needs its word"
    bench.say("a", NO, NEXT)
    assert outcome_of(fetch) is NotInArchive
    bench.request()
    assert bench.asked() == "a", "it has answered"


def test_preferred_host_tried_again_after_a_minute(bench: Bench) -> None:
    bench.request()
    bench.say("a", HostUnreachable("a is down"))
    bench.asked()
    bench.now += 61
    bench.request(NEXT)
    assert bench.asked(NEXT) == "a"
    bench.wait(1.1)
    assert bench.asked(NEXT) == "b", "one second is all that it costs"


def test_silent_host_hedged(bench: Bench) -> None:
    fetch = bench.request()
    bench.wait(0.9)
    assert bench.asked() == "a"
    bench.wait(0.2)
    assert bench.asked() == "b"
    bench.begin("b")
    with pytest.raises(ConnectionLost):
        bench.begin("a")
    bench.say("a", ConnectionLost("not wanted"))
    bench.say("b", None)
    assert outcome_of(fetch) is None
    bench.request(NEXT)
    assert bench.asked(NEXT) == "b"


def test_silent_host_awaited_before_no(bench: Bench) -> None:
    fetch = bench.request()
    bench.wait(1.1)
    bench.say("b", NO)
    bench.wait(5)
    assert not fetch.is_complete
    bench.say("a", None)
    assert outcome_of(fetch) is None


def test_wait_for_others_during_promotion(standby: Bench) -> None:
    fetch = standby.request()
    standby.say("a", NO)
    standby.wait(5)
    assert not fetch.is_complete
    standby.promote.touch()
    standby.wait(0.1)
    assert outcome_of(fetch) is Unconfirmed
    standby.asked()
    fetch = standby.request(HISTORY)
    assert standby.asked(HISTORY) == "a", "the later calls of a promotion do not wait"
    standby.say("a", NO, HISTORY)
    assert outcome_of(fetch) is Unconfirmed
    standby.say("b", NO)  # too late, and no harm


def test_others_asked_for_a_promotion(standby: Bench) -> None:
    """Give nothing up that another host may have."""
    fetch = standby.request()
    assert standby.asked() == "a"
    assert standby.hosts.ask_others()
    assert standby.asked() == "b"
    assert not standby.hosts.ask_others(), "nobody is left"
    standby.begin("b")
    standby.say("b", None)
    assert outcome_of(fetch) is None


def test_others_asked_instead_of_one_that_is_silent(standby: Bench) -> None:
    standby.request()
    standby.begin("a")
    assert standby.hosts.ask_others()
    standby.say("a", ReadTimeout("a was silent"))
    assert standby.hosts.has_another_way(NAME, ReadTimeout("a was silent"))
    standby.asked()
    fetch = standby.request()
    assert standby.asked() == "b"
    assert not standby.hosts.ask_others(), "once"
    standby.begin("b")
    standby.say("b", None)
    assert outcome_of(fetch) is None


def test_nobody_else_to_ask(standby: Bench) -> None:
    assert not standby.hosts.ask_others()
    standby.request()
    standby.say("a", NO)
    assert standby.asked() == "ab"
    assert not standby.hosts.ask_others()


def test_file_that_barman_works_on(standby: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hear of it from whoever may bring it."""
    fetch, found = standby.request(), []
    monkeypatch.setattr(fetch, "on_found", lambda: found.append("it"))
    standby.hosts.ask_others()
    first = standby.sources["a"].handlers[NAME]
    first.on_found()
    assert found == ["it"]
    standby.begin("b")
    first.on_found()
    assert found == ["it"]


def test_lost_connection_made_again(bench: Bench) -> None:
    bench.sources["a"].another_way = True
    fetch = bench.request()
    for _ in range(several_hosts.TRIES):
        bench.say("a", ConnectionLost("cut"))
    assert bench.asked() == "aaa"
    bench.say("a", ConnectionLost("cut"))
    assert bench.asked() == "b"
    bench.say("b", NO)
    assert outcome_of(fetch) is Unheard


def test_lost_in_mid_file(bench: Bench) -> None:
    fetch = bench.request()
    bench.begin("a")
    bench.say("a", ReadTimeout("a is silent"))
    assert outcome_of(fetch) is ReadTimeout, "what has come is of no use"
    assert bench.hosts.has_another_way(NAME, ReadTimeout("a is silent"))
    fetch = bench.request()
    bench.begin("b")
    bench.say("b", None)
    assert outcome_of(fetch) is None


def test_failed_verification(bench: Bench) -> None:
    bench.request()
    bench.say("a", None)
    assert bench.hosts.has_another_way(NAME, InvalidWal("short"))
    fetch = bench.request()
    assert bench.asked() == "ab"
    bench.say("b", None)
    assert outcome_of(fetch) is None
    bench.hosts.on_stored(NAME)
    assert bench.notices == ["what came from a was refused: short; b has it"]


def test_foreign_host_not_asked_for_long(bench: Bench) -> None:
    bench.request()
    bench.say("a", NO)
    bench.say("b", None)
    assert bench.hosts.has_another_way(NAME, ForeignWal("it is of another cluster"))
    fetch = bench.request()
    assert outcome_of(fetch) is InvalidWal
    bench.now += 500
    bench.asked()
    bench.hosts = bench.make("a", "b")
    fetch = bench.request()
    assert bench.asked() == "a"
    bench.say("a", NO)
    assert outcome_of(fetch) is Unconfirmed
    assert "b has the archive of another cluster" in str(fetch.error)
    bench.memory.note_outage("a", "down")
    bench.request(NEXT)
    assert bench.asked(NEXT) == "a", "not even when the other one is dead"


def test_own_disk_full(bench: Bench) -> None:
    bench.request()
    bench.begin("a")
    bench.say("a", OSError(28, "full"))
    assert not bench.hosts.has_another_way(NAME, OSError(28, "full"))
    bench.request()
    assert bench.asked() == "aa", "from the beginning"


def test_given_up(bench: Bench) -> None:
    fetch = bench.request(HISTORY)
    for host in "ab":
        bench.say(host, GivenUp(), HISTORY)
    assert outcome_of(fetch) is GivenUp
    assert not bench.memory.why_skipped("a")


def test_third_host(bench: Bench) -> None:
    bench.hosts = bench.make("a", "b", "c")
    fetch = bench.request()
    bench.wait(1.1)
    bench.wait(1.1)
    assert bench.asked() == "abc"
    bench.say("b", NO)
    bench.say("a", HostUnreachable("a is down"))
    bench.say("c", None)
    assert outcome_of(fetch) is None


def test_known_passive_host(standby: Bench) -> None:
    standby.memory.note_passive("b", "a")
    fetch = standby.request()
    standby.say("a", NO)
    standby.say("b", HostUnreachable("b is down"))
    assert outcome_of(fetch) is NotInArchive
    standby.memory.note_passive("b", None)
    assert standby.memory.copied("b") is None


@pytest.mark.parametrize("copied", ["c", ""])
def test_passive_copy_of_another(standby: Bench, copied: str) -> None:
    standby.memory.note_passive("b", copied)
    fetch = standby.request()
    standby.say("a", NO)
    standby.say("b", HostUnreachable("b is down"))
    assert outcome_of(fetch) is not NotInArchive


def test_notes_without_spool() -> None:
    memory = HostMemory(None)
    memory.note_outage("a", "down")
    memory.note_missed(NAME)
    assert (memory.why_skipped("a"), memory.was_missed(NAME), memory.copied("a")) == ("down", True, None)
    memory.note_answer("a")
    assert memory.why_skipped("a") == ""
