"""Lose one of two Barman hosts, in whatever way a host fails."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from walbasin.remote.ssh import LIVELY

from tests.support.barman_host import BarmanHost
from tests.support.network import Harm, Network
from tests.support.pair import LISTED, Pair, forget_outages, with_and_without_prefetch
from tests.support.postgres import Server
from tests.support.processes import wait_until
from tests.support.standby import Standby, claim

from .conftest import Primary, rows


@pytest.fixture
def between(pair: Pair) -> Iterator[Network]:
    """Return a network to the preferred host, which a test can disturb."""
    with Network(pair.hosts["barman"].port) as network:
        pair.ports["barman"] = network.port
        pair.write()
        yield network


@pytest.mark.parametrize(
    "fault",
    [
        "refused",
        "stopped in mid-segment",
        *(pytest.param(each, marks=pytest.mark.matrix) for each in ("black hole", "frozen", "reset")),
    ],
)
@with_and_without_prefetch
def test_preferred_host_failure(
    chris: Standby,
    pair: Pair,
    between: Network,
    angus: Primary,
    wal: Callable[[str], bytes],
    fault: str,
    jobs: str,
) -> None:
    """Fetch from the other host, within seconds, whatever state the first one is in."""
    pair.put_everywhere(angus.segments, wal)
    first = angus.segments[0]
    if fault == "refused":
        pair.refuse("barman")
    elif fault == "black hole":
        between.harm = Harm("silence", 0)
    elif fault == "reset":
        between.partition()
    elif fault == "frozen":
        assert pair.fetch(chris, first, "-p", jobs).status == 0
        between.harm = Harm("silence", 0)
    else:
        between.harm = Harm("crawl", 1 << 20)
        stopper = SegmentStopper(pair.hosts["barman"])
    started = time.monotonic()
    options = ("-p", jobs, "--compress", "none")  # so that it takes as long as the test thinks
    process = chris.start(first, *options, host=LISTED, server=pair.server, ssh_config="two")
    if fault == "stopped in mid-segment":
        stopper.stop()
        between.harm = None  # what lies in buffers comes
    _, stderr = process.communicate(timeout=60)
    took = time.monotonic() - started
    if fault == "stopped in mid-segment":
        stopper.go_on()
    assert process.returncode == 0, stderr
    assert chris.delivered() == wal(first)
    assert took < 25, "a single host has 30 s of silence"
    for each in angus.segments[1:]:
        call = pair.fetch(chris, each, "-p", jobs)
        assert call.status == 0, call.stderr
        assert chris.delivered() == wal(each)
        assert call.seconds < 10, "barman is known to be dead"


class SegmentStopper:
    """Stop sshd's processes at a host while they send, and let them go on."""

    def __init__(self, host: BarmanHost) -> None:
        self._host = host
        self._stopped: set[int] = set()

    def stop(self) -> None:
        time.sleep(3)
        self._stopped = self._host.connections()
        assert self._stopped
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in self._stopped:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue


def test_prefetch_at_full_rate_from_second_host(
    served: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes]
) -> None:
    pair.put_everywhere(angus.segments, wal)
    seconds = {}
    pair.refuse("barman")
    for hosts in ("barman2", LISTED):
        started = time.monotonic()
        for each in angus.segments:
            assert pair.fetch(served, each, "-p", "4", hosts=hosts).status == 0
            served.delivered()
        seconds[hosts] = time.monotonic() - started
    assert seconds[LISTED] < 1.5 * seconds["barman2"] + 1


def test_return_to_preferred_host(chris: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes]) -> None:
    """Ask the first host again once its outage is over, in a new process at least."""
    pair.put_everywhere(angus.segments, wal)
    pair.refuse("barman")
    assert pair.fetch(chris, angus.segments[0]).status == 0
    pair.accept("barman")
    pair.refuse("barman2")
    call = pair.fetch(chris, angus.segments[1])
    assert call.status == 2, "barman is skipped"
    forget_outages(chris)
    assert pair.fetch(chris, angus.segments[1]).status == 0


def test_outage_of_all_hosts(chris: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes]) -> None:
    pair.put("barman2", angus.segments[4], wal(angus.segments[4]))
    for name in pair.hosts:
        pair.refuse(name)
    assert pair.fetch(chris, angus.segments[4], "-p", "4").status == 2
    call = pair.fetch(chris, angus.segments[4], "-p", "4")
    assert (call.status, "skipped, barman,barman2 could not be reached" in call.stderr) == (2, True), call.stderr
    forget_outages(chris)
    pair.accept("barman2")
    for _ in range(2):
        call = pair.fetch(chris, angus.segments[4], "-p", "4")
        assert call.status == 0, call.stderr


# --- Real servers


@pytest.mark.parametrize("dead", ["barman", pytest.param("barman2", marks=pytest.mark.matrix)])
def test_promotion_with_one_host_silent(
    copy_of_base: Callable[..., Server],
    pair: Pair,
    angus: Primary,
    wal: Callable[[str], bytes],
    fetcher: Path,
    workdir: Path,
    dead: str,
) -> None:
    pair.put_everywhere(angus.segments, wal)
    with Network(pair.hosts[dead].port) as network:
        network.harm = Harm("silence", 0)
        pair.ports[dead] = network.port
        pair.write()
        command = pair.command(fetcher, workdir / "spool", "-p", "2", "-s", "10")
        chris = copy_of_base("chris", "standby.signal", restore_command=command)
        chris.start()
        wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)
        time.sleep(3)
        started = time.monotonic()
        chris.promote()
        assert time.monotonic() - started < 8, chris.log()[-3000:]


def test_promotion_that_needs_the_other_host(
    served: Standby, pair: Pair, angus: Primary, wal: Callable[[str], bytes]
) -> None:
    """Give no WAL up that the second host has, because the first one is frozen."""
    first, last = angus.segments[0], angus.segments[5]
    pair.put_everywhere((first, last), wal)
    with Network(pair.hosts["barman"].port) as network:
        pair.ports["barman"] = network.port
        pair.write()
        claim(served.data, os.getppid(), 3600)
        assert pair.fetch(served, first, "-p", "2").status == 0
        time.sleep(LIVELY + 1)
        network.harm = Harm("silence", 0)
        (served.data / "promote").touch()
        time.sleep(0.1)
        (served.data / "promote").unlink()
        call = pair.fetch(served, last, "-p", "2")
        assert call.status == 0, call.stderr
        assert served.delivered() == wal(last)


def test_stopped_recovery_without_preferred_host(
    copy_of_base: Callable[..., Server],
    pair: Pair,
    angus: Primary,
    wal: Callable[[str], bytes],
    fetcher: Path,
    workdir: Path,
) -> None:
    """Do not end a recovery where a copy of the archive ends: row 7."""
    for each in angus.segments:
        pair.put("barman", each, wal(each))
    for each in angus.segments[:5]:
        pair.put("barman2", each, wal(each))
    pair.make_passive("barman2")
    pair.refuse("barman")
    command = pair.command(fetcher, workdir / "spool", "-p", "4", "--retry", "2")
    server = copy_of_base("pitr", "recovery.signal", restore_command=command)
    server.start(wait=False)
    stopped = "nothing is lost, mend it and start again"
    wait_until(lambda: stopped in server.log() and not server.is_running(), "its end", 60)
    assert "barman2 has none" in server.log()
    pair.accept("barman")
    server.start()
    wait_until(lambda: "archive recovery complete" in server.log(), "the end of recovery", 120)
    assert rows(server) == angus.rows
