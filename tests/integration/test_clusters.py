"""Test several clusters on one host, and several calls at once."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost
from tests.support.postgres import SEGMENT_SIZE
from tests.support.processes import give, wait_until
from tests.support.standby import Standby, claim

from .conftest import Primary


@pytest.fixture
def other_host(workdir: Path) -> Iterator[BarmanHost]:
    """Run another Barman host with another `angus`, whose WAL has the same names."""
    host = BarmanHost(workdir / "barman")
    host.add_server("angus")
    host.start()
    yield host
    host.end()


@pytest.fixture
def make_neighbour(workdir: Path, fetcher: Path, served: Standby) -> Iterator[Callable[..., Standby]]:
    """Return a function that adds a cluster to the host of `served`.

    It shares the spool folder. A `sleep` plays its postmaster.
    """
    made, servers = [], []

    def make(name: str, barman: BarmanHost, system_identifier: int) -> Standby:
        data = wal_builder.build_data_directory(workdir / name / "main", 15, system_identifier, "standby.signal")
        servers.append(subprocess.Popen(["sleep", "600"]))
        claim(data, servers[-1].pid)
        made.append(Standby(workdir / name, give(data), fetcher, barman))
        made[-1].spool = served.spool
        return made[-1]

    yield make
    for standby, server in zip(made, servers, strict=True):
        standby.end()
        server.kill()
        server.wait()


def test_two_clusters_same_names(
    served: Standby,
    angus: Primary,
    other_host: BarmanHost,
    make_neighbour: Callable[..., Standby],
    wal: Callable[[str], bytes],
) -> None:
    """Tell two clusters apart that differ in their system identifiers alone."""
    other = make_neighbour("other", other_host, wal_builder.FOREIGN)
    theirs = {name: wal_builder.build_segment(name, wal_builder.FOREIGN, SEGMENT_SIZE) for name in angus.segments}
    for name, content in theirs.items():
        other_host.put("angus", name, content)
    for name in angus.segments:
        for standby, content in ((served, wal(name)), (other, theirs[name])):
            call = standby.fetch(name, "-p", "3", host="gate")
            assert (call.status, call.stderr) == (0, "")
            assert standby.delivered() == content


def test_foreign_cluster_refused(
    served: Standby, angus: Primary, barman: BarmanHost, make_neighbour: Callable[..., Standby]
) -> None:
    """Refuse WAL of the other cluster, after a wrong configuration."""
    other = make_neighbour("other", barman, wal_builder.FOREIGN)
    assert served.fetch(angus.segments[3], "-p", "3", host="gate").status == 0
    served.wait_for_spooled(angus.segments[4])
    for jobs in ("0", "3"):
        call = other.fetch(angus.segments[4], "-p", jobs, host="gate")
        assert (call.status, len(call.lines)) == (3, 1)
        assert "another cluster" in call.stderr
        assert other.pg_wal() == []


@pytest.mark.parametrize("kind", ["two standbys of one primary", "a restored copy beside its standby"])
def test_same_cluster_twice(
    served: Standby,
    angus: Primary,
    barman: BarmanHost,
    make_neighbour: Callable[..., Standby],
    wal: Callable[[str], bytes],
    kind: str,
) -> None:
    """Tell two clusters apart that differ in their data directories alone."""
    other = make_neighbour("other", barman, angus.system_identifier)
    if kind == "a restored copy beside its standby":
        (other.data / "standby.signal").rename(other.data / "recovery.signal")
    for ahead, behind in zip(angus.segments[3:], angus.segments):
        for standby, name in ((served, ahead), (other, behind)):
            call = standby.fetch(name, "-p", "4", host="gate")
            assert (call.status, call.stderr) == (0, "")
            assert standby.delivered() == wal(name)
    assert len(served.prefetch_process_ids()) == 2, "each has its own"
    # The end of one prefetch process leaves the other one running.
    (other.data / "postmaster.pid").unlink()
    wait_until(lambda: len(served.prefetch_process_ids()) == 1, "the end of one")
    assert served.fetch(angus.segments[5], "-p", "4", host="gate").status == 0
    served.wait_for_spooled(angus.segments[6])


@pytest.mark.parametrize("jobs", ["0", "3"])
def test_simultaneous_calls(served: Standby, angus: Primary, wal: Callable[[str], bytes], jobs: str) -> None:
    """Deliver to each of several calls what it asked for."""
    names = [angus.segments[number % 4 + 2] for number in range(12)]
    calls = [
        served.start(name, "-p", jobs, host="gate", destination=f"pg_wal/{number}/RECOVERYXLOG")
        for number, name in enumerate(names)
        if make_wal_folder(served, str(number))
    ]
    for number, (call, name) in enumerate(zip(calls, names, strict=True)):
        _, stderr = call.communicate(timeout=60)
        assert call.returncode == 0, stderr
        assert served.delivered(f"pg_wal/{number}/RECOVERYXLOG") == wal(name)


def make_wal_folder(standby: Standby, name: str) -> Path:
    """Make a folder in pg_wal."""
    (standby.data / "pg_wal" / name).mkdir()
    return give(standby.data / "pg_wal" / name)


def test_same_destination(served: Standby, angus: Primary, wal: Callable[[str], bytes]) -> None:
    """Deliver a whole file when a killed server's call and the next one meet."""
    first, second = angus.segments[4:6]
    calls = [served.start(name, "-p", "3", host="gate") for name in (first, second)]
    for call in calls:
        _, stderr = call.communicate(timeout=60)
        assert call.returncode == 0, stderr
    assert served.delivered() in (wal(first), wal(second))
    assert served.pg_wal() == []


def test_pg_rewind_beside_standby(served: Standby, angus: Primary, wal: Callable[[str], bytes], workdir: Path) -> None:
    """Fetch backwards for pg_rewind, and keep the standby's spool as it is."""
    for name, earlier in zip(angus.segments[4:], reversed(angus.segments[:4])):
        assert served.fetch(name, "-p", "3", host="gate").status == 0
        target = served.data / "pg_wal" / earlier
        assert served.fetch(earlier, "-p", "3", host="gate", destination=target, cwd=workdir).status == 0
        assert served.delivered(f"pg_wal/{earlier}") == wal(earlier)
        assert served.delivered() == wal(name)
        assert not set(angus.segments[:4]) & set(served.spooled())
