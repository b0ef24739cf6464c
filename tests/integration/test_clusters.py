"""Several clusters on one host, and several calls at once: nobody is given what is somebody else's."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost
from tests.support.postgres import SEGMENT_SIZE
from tests.support.processes import give, wait_until
from tests.support.standby import Standby

from .conftest import Primary


@pytest.fixture
def other_host(place: Path) -> Iterator[BarmanHost]:
    """Another Barman host, which knows another `angus`, with WAL of the same names."""
    host = BarmanHost(place / "barman")
    host.add_server("angus")
    host.start()
    yield host
    host.end()


@pytest.fixture
def make_neighbour(place: Path, fetcher: Path, served: Standby) -> Iterator[Callable[..., Standby]]:
    """More clusters on the host of `served`, which share its spool folder; a sleep stands in for their postmasters."""
    made, servers = [], []

    def make(name: str, barman: BarmanHost, system_identifier: int) -> Standby:
        data = wal_builder.build_data_directory(place / name / "main", 15, system_identifier, "standby.signal")
        servers.append(subprocess.Popen(["sleep", "600"]))
        (data / "postmaster.pid").write_text(f"{servers[-1].pid}\n{data}\n1700000000\n5433\n")
        made.append(Standby(place / name, give(data), fetcher, barman))
        made[-1].spool = served.spool
        return made[-1]

    yield make
    for standby, server in zip(made, servers, strict=True):
        standby.end()
        server.kill()
        server.wait()


def test_two_clusters_with_the_same_names(
    served: Standby,
    angus: Primary,
    other_host: BarmanHost,
    make_neighbour: Callable[..., Standby],
    wal: Callable[[str], bytes],
) -> None:
    """The same host name, server name and WAL names; only the system identifiers differ."""
    other = make_neighbour("other", other_host, wal_builder.FOREIGN)
    theirs = {name: wal_builder.build_segment(name, wal_builder.FOREIGN, SEGMENT_SIZE) for name in angus.segments}
    for name, content in theirs.items():
        other_host.put("angus", name, content)
    for name in angus.segments:
        for standby, content in ((served, wal(name)), (other, theirs[name])):
            call = standby.fetch(name, "-p", "3", host="gate")
            assert (call.status, call.stderr) == (0, "")
            assert standby.delivered() == content


def test_a_cluster_is_not_given_the_other_ones_wal(
    served: Standby, angus: Primary, barman: BarmanHost, make_neighbour: Callable[..., Standby]
) -> None:
    """The counter-proof: the same archive for both, which is wrong for one of them."""
    other = make_neighbour("other", barman, wal_builder.FOREIGN)
    assert served.fetch(angus.segments[3], "-p", "3", host="gate").status == 0
    served.wait_for_spooled(angus.segments[4])
    for jobs in ("0", "3"):
        call = other.fetch(angus.segments[4], "-p", jobs, host="gate")
        assert (call.status, len(call.lines)) == (3, 1)
        assert "another cluster" in call.stderr
        assert other.pg_wal() == []


@pytest.mark.parametrize("kind", ["two standbys of one primary", "a restored copy beside its standby"])
def test_the_same_cluster_twice(
    served: Standby,
    angus: Primary,
    barman: BarmanHost,
    make_neighbour: Callable[..., Standby],
    wal: Callable[[str], bytes],
    kind: str,
) -> None:
    """They have all in common but the data directory, and are at different points."""
    other = make_neighbour("other", barman, angus.system_identifier)
    if kind == "a restored copy beside its standby":
        (other.data / "standby.signal").rename(other.data / "recovery.signal")
    for ahead, behind in zip(angus.segments[3:], angus.segments):
        for standby, name in ((served, ahead), (other, behind)):
            call = standby.fetch(name, "-p", "4", host="gate")
            assert (call.status, call.stderr) == (0, "")
            assert standby.delivered() == wal(name)
    assert len(served.prefetch_process_ids()) == 2, "each has its own"
    # When one ends, the other's goes on.
    (other.data / "postmaster.pid").unlink()
    wait_until(lambda: len(served.prefetch_process_ids()) == 1, "the end of one")
    assert served.fetch(angus.segments[5], "-p", "4", host="gate").status == 0
    served.wait_for_spooled(angus.segments[6])


@pytest.mark.parametrize("jobs", ["0", "3"])
def test_many_calls_at_once(served: Standby, angus: Primary, wal: Callable[[str], bytes], jobs: str) -> None:
    """Nobody should; each is given what it asked for."""
    names = [angus.segments[number % 4 + 2] for number in range(12)]
    calls = [
        served.start(name, "-p", jobs, host="gate", destination=f"pg_wal/{number}/RECOVERYXLOG")
        for number, name in enumerate(names)
        if give_folder(served, str(number))
    ]
    for number, (call, name) in enumerate(zip(calls, names, strict=True)):
        _, stderr = call.communicate(timeout=60)
        assert call.returncode == 0, stderr
        assert served.delivered(f"pg_wal/{number}/RECOVERYXLOG") == wal(name)


def give_folder(standby: Standby, name: str) -> Path:
    (standby.data / "pg_wal" / name).mkdir()
    return give(standby.data / "pg_wal" / name)


def test_two_calls_for_the_same_destination(served: Standby, angus: Primary, wal: Callable[[str], bytes]) -> None:
    """The one that a killed server left behind, and the next one's: what is there in the end is whole."""
    first, second = angus.segments[4:6]
    calls = [served.start(name, "-p", "3", host="gate") for name in (first, second)]
    for call in calls:
        _, stderr = call.communicate(timeout=60)
        assert call.returncode == 0, stderr
    assert served.delivered() in (wal(first), wal(second))
    assert served.pg_wal() == []


def test_pg_rewind_asks_while_a_standby_recovers(
    served: Standby, angus: Primary, wal: Callable[[str], bytes], place: Path
) -> None:
    """Its calls have another destination, and go back in time. The standby's spool does not follow them."""
    for name, earlier in zip(angus.segments[4:], reversed(angus.segments[:4])):
        assert served.fetch(name, "-p", "3", host="gate").status == 0
        target = served.data / "pg_wal" / earlier
        assert served.fetch(earlier, "-p", "3", host="gate", destination=target, cwd=place).status == 0
        assert served.delivered(f"pg_wal/{earlier}") == wal(earlier)
        assert served.delivered() == wal(name)
        assert not set(angus.segments[:4]) & set(served.spooled())
