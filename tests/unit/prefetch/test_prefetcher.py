"""Drive the prefetcher with a source that the test controls."""

import gzip
import lzma
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from walbasin import policy
from walbasin.local import data_directory
from walbasin.local.spool import Spool
from walbasin.prefetch import prefetcher
from walbasin.prefetch.prefetcher import FetchResult, Prefetcher, result_of
from walbasin.remote.archive import Archive, verify
from walbasin.remote.errors import (
    ConnectionLost,
    GivenUp,
    HostUnreachable,
    NotInArchive,
    ReadTimeout,
    RemoteError,
    SkippedDuringOutage,
    Unconfirmed,
    Unheard,
)
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.ssh import Remote
from walbasin.wal.compression import UnsupportedCompression
from walbasin.wal.getwal import Request
from walbasin.wal.segment import InvalidWal

from tests.support.fake_source import FakeSource
from tests.support.wal_builder import FOREIGN, MIB, build_data_directory, build_segment

JOBS = 4


def name(number: int, timeline: int = 1) -> str:
    """Return the name of a segment of 1 MiB."""
    return f"{timeline:08X}00000000{number:08X}"


class Bench:
    """Hold a prefetcher with its spool, its source and its results."""

    def __init__(self, folder: Path, loop: EventLoop, segment_size: int = 0) -> None:
        cluster = data_directory.read(str(build_data_directory(folder / "main", segment_size=segment_size)))
        assert cluster
        self.loop = loop
        self.source = FakeSource()
        self.spool = Spool(str(folder / "spool"), cluster, "angus")
        archive = Archive(Remote("barman"), Request("angus", ""), cluster)
        self.prefetcher = Prefetcher(spool=self.spool, archives=[archive], jobs=JOBS, size=MIB, loop=loop)
        self.prefetcher.source = self.source
        self.results: dict[str, FetchResult] = {}

    def request(self, name: str) -> None:
        self.prefetcher.request(name, lambda result: self.results.update({name: result}))

    def take(self, name: str) -> None:
        """Take a segment as PostgreSQL does, and notify as the FIFO does."""
        self.spool.remove([name])
        self.prefetcher.pump()

    def fill(self) -> None:
        """Request the first segment, and fill the window behind it."""
        self.request(name(1))
        while self.source.handlers:
            self.source.bring(next(iter(self.source.handlers)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with EventLoop() as loop:
        bench = Bench(tmp_path, loop)
        yield bench
        for fetch in bench.prefetcher._in_flight.values():
            fetch.close()


def test_requested_segment(bench: Bench) -> None:
    bench.request(name(1))
    assert bench.source.requested == [name(1)]
    assert bench.prefetcher.has_work()
    assert bench.results == {}
    bench.source.bring(name(1))
    assert bench.results == {name(1): FetchResult(policy.DELIVERED)}
    assert name(1) in bench.spool.names()


def test_segment_in_spool(bench: Bench) -> None:
    bench.fill()
    bench.source.requested.clear()
    bench.request(name(2))
    assert bench.results[name(2)] == FetchResult(policy.DELIVERED)
    assert name(2) not in bench.source.requested


def test_two_clients_one_fetch(bench: Bench) -> None:
    results: list[FetchResult] = []
    for _ in range(2):
        bench.prefetcher.request(name(1), results.append)
    bench.source.bring(name(1))
    assert results == [FetchResult(policy.DELIVERED)] * 2
    assert bench.source.requested.count(name(1)) == 1


def test_lookahead_one_for_each_first_byte(bench: Bench) -> None:
    bench.request(name(1))
    assert bench.source.requested == [name(1)], "nothing is known of the archive yet"
    bench.source.begin(name(1), build_segment(name(1)))
    assert bench.source.requested == [name(1), name(2)]
    bench.source.begin(name(2), build_segment(name(2)))
    assert bench.source.requested == [name(1), name(2), name(3), name(4)], "two were there, so two more are asked for"


def test_lookahead_as_far_as_it_goes_where_barman_has_to_work(bench: Bench) -> None:
    bench.request(name(1))
    bench.source.handlers[name(1)].on_found()
    assert bench.source.requested == [name(number) for number in range(1, JOBS + 1)]
    bench.source.complete(name(3), NotInArchive())
    bench.source.bring(name(1))
    bench.source.bring(name(2))
    assert len(bench.source.requested) == JOBS, "the archive has ended"


def test_window_full(bench: Bench) -> None:
    bench.fill()
    assert bench.spool.names() == [name(number) for number in range(1, JOBS + 1)] + [name(JOBS + 1)]
    assert not bench.prefetcher.has_work()
    bench.source.requested.clear()
    bench.take(name(1))
    assert bench.source.requested == []
    bench.take(name(2))
    assert bench.source.requested == [name(JOBS + 2)]


def test_replay_jumped_ahead(bench: Bench) -> None:
    bench.fill()
    bench.take(name(4))
    assert bench.spool.names() == [name(5)], "what lies behind replay is evicted"


def test_still_wanted(bench: Bench) -> None:
    assert bench.prefetcher.still_wanted() == []
    bench.fill()
    assert bench.prefetcher.still_wanted() == bench.spool.names()
    bench.take(name(1))
    assert bench.prefetcher.still_wanted() == [name(number) for number in range(2, JOBS + 2)]


def test_not_wanted_any_more(bench: Bench) -> None:
    """Let go what lies behind the last request, though that was not in the archive."""
    bench.fill()
    bench.request(name(JOBS))
    assert bench.prefetcher.still_wanted() == [name(JOBS), name(JOBS + 1)]
    bench.request(name(100))
    bench.source.complete(name(100), NotInArchive())
    assert bench.prefetcher.still_wanted() == []


def test_kept_by_a_former_process(bench: Bench) -> None:
    """Use what was kept, and let go what is not wanted after all."""
    for number in (2, 3, 50):
        bench.spool.create(name(number)).close()
        bench.spool.commit(name(number))
    bench.prefetcher.request(name(2), lambda result: bench.results.update({name(2): result}))
    assert bench.results == {name(2): FetchResult(policy.DELIVERED)}
    bench.take(name(2))
    assert name(2) not in bench.source.requested
    assert name(3) not in bench.source.requested
    assert bench.spool.names()[:1] == [name(3)]
    assert name(50) not in bench.spool.names()


def test_end_of_archive(bench: Bench) -> None:
    bench.request(name(1))
    bench.source.bring(name(1))
    bench.source.complete(name(2), NotInArchive())
    assert bench.source.handlers == {}, "nothing is asked for beyond what is not there"
    assert bench.results == {name(1): FetchResult(policy.DELIVERED)}, "nobody is told of a speculative miss"
    bench.request(name(2))
    assert bench.source.requested[-1] == name(2), "a 'no' is never remembered"
    bench.source.complete(name(2), NotInArchive())
    assert bench.results[name(2)] == FetchResult(policy.ABSENT)


def test_another_way(bench: Bench) -> None:
    bench.source.another_way = True
    bench.request(name(1))
    for _ in range(prefetcher.TRIES):
        bench.source.complete(name(1), ConnectionLost("cut"))
        assert bench.results == {}
    bench.source.complete(name(1), ConnectionLost("cut for good"))
    assert bench.source.requested == [name(1)] * (1 + prefetcher.TRIES)
    assert bench.results[name(1)] == FetchResult(policy.UNKNOWN, "cut for good")


def test_foreign_segment(bench: Bench) -> None:
    bench.request(name(1))
    bench.source.bring(name(1), build_segment(name(1), FOREIGN))
    assert bench.results[name(1)].outcome == policy.INVALID
    assert "another cluster" in bench.results[name(1)].detail
    assert bench.spool.names() == []


def test_compressed_segment(bench: Bench) -> None:
    bench.request(name(1))
    bench.source.bring(name(1), gzip.compress(build_segment(name(1))))
    end = time.monotonic() + 10
    while name(1) not in bench.results and time.monotonic() < end:
        bench.loop.run_once(0.1)
    assert bench.results[name(1)] == FetchResult(policy.DELIVERED)
    assert name(1) in bench.spool.names()


def test_timeline_switch(bench: Bench) -> None:
    bench.request("00000002.history")
    bench.source.bring("00000002.history", b"1\t0/300000\tno reason\n")
    bench.request(name(1))
    bench.source.bring(name(1))
    bench.source.bring(name(2))
    assert bench.source.requested[1:5] == [name(1), name(2), name(3, timeline=2), name(4, timeline=2)]


def test_filesystem_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.spool, "free_segments", lambda size: 0)
    bench.request(name(1))
    bench.source.bring(name(1))
    assert bench.source.requested == [name(1)], "what PostgreSQL waits for is fetched, nothing else"


def test_spool_not_writable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(_: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(bench.spool, "create", create)
    bench.request(name(1))
    assert bench.results[name(1)] == FetchResult(policy.LOCAL_ERROR, "spool: No space left on device")


def test_source_not_ready(bench: Bench) -> None:
    bench.source.ready = False
    bench.request(name(1))
    assert bench.source.requested == []
    bench.source.ready = True
    bench.prefetcher.tick()
    assert bench.source.requested == [name(1)]


def test_source_busy(bench: Bench) -> None:
    bench.source.capacity = 2
    bench.request(name(1))
    for number in (1, 2):
        bench.source.begin(name(number), build_segment(name(number)))
    assert bench.source.requested == [name(1), name(2)]


def test_host_unreachable(bench: Bench) -> None:
    bench.request(name(1))
    bench.source.complete(name(1), HostUnreachable("no route to host"))
    assert bench.results[name(1)] == FetchResult(policy.UNKNOWN, "no route to host", is_outage=True)


def test_give_up(bench: Bench) -> None:
    """Answer who waits, also for what would find another way."""
    bench.source.another_way = True
    bench.request(name(1))
    bench.prefetcher.give_up(GivenUp())
    assert bench.results[name(1)] == result_of(GivenUp())
    bench.source.complete(name(1), GivenUp())
    assert bench.source.requested == [name(1)]
    bench.request(name(2))
    assert bench.source.requested == [name(1), name(2)]


def test_more_connections_while_postgresql_waits(bench: Bench) -> None:
    bench.request(name(1))
    bench.source.bring(name(1))
    assert bench.source.tuned == [(1, MIB)]
    bench.source.bring(name(2))
    bench.source.bring(name(3))
    assert len(bench.source.tuned) == 2, "not while the next segment lies in the spool"


def test_mistake_of_ours(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _, text: logged.append(text))
    monkeypatch.setattr(prefetcher, "verify", lambda *_: dict[str, str]()["x"])
    bench.request(name(1))
    bench.source.bring(name(1))
    assert bench.results[name(1)] == FetchResult(policy.LOCAL_ERROR, "internal error, please report it: KeyError: 'x'")
    assert logged[0].startswith("Traceback")
    assert logged[-1] == "KeyError: 'x'"


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (NotInArchive(), FetchResult(policy.ABSENT)),
        (InvalidWal("short"), FetchResult(policy.INVALID, "short")),
        (UnsupportedCompression("GPG"), FetchResult(policy.INVALID, "GPG")),
        (HostUnreachable("no route"), FetchResult(policy.UNKNOWN, "no route", is_outage=True)),
        (ConnectionLost("cut"), FetchResult(policy.UNKNOWN, "cut")),
        (ReadTimeout("silent"), FetchResult(policy.UNKNOWN, "silent", is_outage=True)),
        (GivenUp(), FetchResult(policy.UNKNOWN, "given up, because this server is to be promoted", is_outage=True)),
        (RemoteError("failed"), FetchResult(policy.UNKNOWN, "failed")),
        (SkippedDuringOutage("4 s ago"), FetchResult(policy.SKIPPED, "4 s ago")),
        (Unconfirmed("b is down"), FetchResult(policy.UNCONFIRMED, "b is down")),
        (Unheard("a is down"), FetchResult(policy.UNHEARD, "a is down")),
        (OSError(28, "No space left on device"), FetchResult(policy.LOCAL_ERROR, "spool: No space left on device")),
        # Not the disk's, but ours.
        (
            OSError(9, "Bad file descriptor"),
            FetchResult(policy.LOCAL_ERROR, "internal error, please report it: OSError: [Errno 9] Bad file descriptor"),
        ),
        (ValueError("7"), FetchResult(policy.LOCAL_ERROR, "internal error, please report it: ValueError: 7")),
    ],
)
def test_result_of_error(error: Exception, result: FetchResult) -> None:
    assert result_of(error) == result


# --- A hostile host


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Bench]:
    """Return a bench of a cluster whose segments are known to have 1 MiB."""
    with EventLoop() as loop:
        bench = Bench(tmp_path, loop, segment_size=MIB)
        yield bench
        for fetch in bench.prefetcher._in_flight.values():
            fetch.close()


@pytest.mark.parametrize("start", [b"plain", b"\x1f\x8b"])
def test_endless_file(known: Bench, start: bytes) -> None:
    known.request(name(1))
    known.source.begin(name(1), start + bytes(1000))
    with pytest.raises(InvalidWal, match="bytes at most"):
        for _ in range(600):
            known.source.begin(name(1), bytes(MIB // 4))
    received = known.prefetcher._in_flight[name(1)].incoming._received
    assert received is not None
    assert os.fstat(received.fileno()).st_size <= MIB * 9 // 8 + 64 * 1024


def test_segment_of_another_size(known: Bench) -> None:
    known.request(name(1))
    known.source.bring(name(1), build_segment(name(1), size=2 * MIB)[:MIB])
    assert "segments of 2 MiB, and this cluster's have 1 MiB" in known.results[name(1)].detail


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd"])
def test_no_space_while_it_arrives(known: Bench, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Keep free what was promised, but for the file that PostgreSQL waits for."""

    def bring(name: str) -> None:
        content = build_segment(name)
        if form != "plain":
            content = subprocess.run([form, "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout
        try:
            known.source.bring(name, content)
        except OSError as error:  # as the loop does
            known.source.complete(name, error)

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            known.loop.run_once(0.05)

    known.request(name(1))
    known.source.begin(name(1), b"")
    assert name(2) in known.source.handlers
    monkeypatch.setattr(known.spool, "_space", lambda: (4 * MIB - 1, 20 * MIB))
    bring(name(1))
    wait(lambda: name(1) in known.results)
    assert known.results[name(1)] == FetchResult(policy.DELIVERED)
    bring(name(2))
    wait(lambda: not known.prefetcher.has_work())
    assert known.spool.names() == [name(1)]


def test_two_costly_decompressions_at_once(known: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    running = []
    most = []

    def slow(*arguments: object) -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.3)
        verify(*arguments)  # type: ignore[arg-type]
        running.pop()

    monkeypatch.setattr(prefetcher, "verify", slow)
    names = [name(number) for number in range(1, 9)]
    for each in names:
        known.request(each)
    stored = {each: lzma.compress(build_segment(each), preset=0) for each in names}
    for each in names:
        known.source.bring(each, stored[each])
    end = time.monotonic() + 20
    while len(known.results) < len(names) and time.monotonic() < end:
        known.loop.run_once(0.1)
    assert set(known.results.values()) == {FetchResult(policy.DELIVERED)}
    assert max(most) == 2
