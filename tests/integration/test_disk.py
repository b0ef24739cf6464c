"""Test faults of the standby's disk: in the spool, and where WAL is delivered."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.disks import SmallDisk
from tests.support.processes import IS_ROOT, give, wait_until
from tests.support.standby import Standby

from .conftest import Primary

MIB = 1 << 20
pytestmark = pytest.mark.skipif(not IS_ROOT, reason="only root may mount a filesystem")


@pytest.fixture
def disk(workdir: Path) -> Iterator[SmallDisk]:
    """Mount a disk for twelve segments: four stay free, eight are for the spool."""
    with SmallDisk(workdir / "disk", 192 * MIB) as disk:
        yield disk


@pytest.fixture
def with_spool_on_disk(served: Standby, disk: SmallDisk) -> Standby:
    """Return a standby whose spool is on another filesystem than its pg_wal."""
    served.spool = disk.folder / "spool"
    return served


@pytest.mark.parametrize("free", [0, 4096, 1 * MIB, 15 * MIB, 17 * MIB, 40 * MIB])
def test_spool_full(
    with_spool_on_disk: Standby, disk: SmallDisk, angus: Primary, wal: Callable[[str], bytes], free: int
) -> None:
    disk.fill(but=free)
    for name in angus.segments[4:7]:
        # Compressed, a segment needs less room.
        call = with_spool_on_disk.fetch(name, "-p", "3", "--compress", "none", host="gate")
        assert call.status == 0
        assert with_spool_on_disk.delivered() == wal(name)
        assert len(call.lines) <= 1
        if free < 16 * MIB:
            assert "No space left on device" in call.stderr
    assert with_spool_on_disk.spooled() == [], "the last four segments stay free"


def test_spool_full_while_in_use(
    with_spool_on_disk: Standby, disk: SmallDisk, angus: Primary, wal: Callable[[str], bytes]
) -> None:
    names = angus.segments
    assert with_spool_on_disk.fetch(names[2], "-p", "3", host="gate").status == 0
    with_spool_on_disk.wait_for_spooled(names[3])
    disk.fill()
    for name in names[3:7]:
        assert with_spool_on_disk.fetch(name, "-p", "3", host="gate").status == 0
        assert with_spool_on_disk.delivered() == wal(name)
    (disk.folder / "filling").unlink()
    assert with_spool_on_disk.fetch(names[5], "-p", "3", host="gate").status == 0
    with_spool_on_disk.wait_for_spooled(names[6])


@pytest.mark.parametrize("when", ["from the start", "while in use"])
def test_spool_read_only(
    with_spool_on_disk: Standby, disk: SmallDisk, angus: Primary, wal: Callable[[str], bytes], when: str
) -> None:
    if when == "while in use":
        assert with_spool_on_disk.fetch(angus.segments[3], "-p", "3", host="gate").status == 0
        with_spool_on_disk.wait_for_spooled(angus.segments[4])
        # End the prefetch process: a filesystem with files open for writing cannot
        # become read-only.
        (with_spool_on_disk.data / "standby.signal").rename(with_spool_on_disk.data / "elsewhere")
        wait_until(lambda: not with_spool_on_disk.prefetch_processes(), "its end")
        (with_spool_on_disk.data / "elsewhere").rename(with_spool_on_disk.data / "standby.signal")
    disk.make_read_only()
    for name in angus.segments[4:6]:
        call = with_spool_on_disk.fetch(name, "-p", "3", host="gate")
        assert (call.status, len(call.lines)) == (0, 1)
        assert "Read-only file system" in call.stderr
        assert with_spool_on_disk.delivered() == wal(name)


def test_spool_on_another_filesystem(with_spool_on_disk: Standby, angus: Primary, wal: Callable[[str], bytes]) -> None:
    first, second, *_ = angus.segments[4:]
    assert with_spool_on_disk.fetch(first, "-p", "3", host="gate").status == 0
    with_spool_on_disk.wait_for_spooled(second)
    call = with_spool_on_disk.fetch(second, "-p", "3", host="gate")
    assert (call.status, call.stderr) == (0, "")
    assert with_spool_on_disk.delivered() == wal(second)


@pytest.mark.parametrize("what", ["all of it", "its files", "the cluster's folder"])
def test_spool_removed(served: Standby, angus: Primary, wal: Callable[[str], bytes], what: str) -> None:
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    served.wait_for_spooled(angus.segments[3])
    if what == "all of it":
        while served.spool.exists():  # the prefetch process removes files, too
            shutil.rmtree(served.spool, ignore_errors=True)
    elif what == "its files":
        for path in served.spool.rglob("*"):
            if not path.is_dir() or path.is_symlink():
                path.unlink(missing_ok=True)
    else:
        for path in served.spool.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
    for name in angus.segments[3:8]:
        call = served.fetch(name, "-p", "3", host="gate")
        assert (call.status, call.stderr) == (0, "")
        assert served.delivered() == wal(name)
    wait_until(lambda: len(served.prefetch_process_ids()) == 1, "the end of the one that has no spool")


@pytest.mark.parametrize("jobs", ["0", "3"])
@pytest.mark.parametrize(("signal_file", "status"), [("standby.signal", 4), ("recovery.signal", 200)])
def test_destination_full(
    make_standby: Callable[..., Standby],
    disk: SmallDisk,
    angus: Primary,
    wal: Callable[[str], bytes],
    signal_file: str,
    status: int,
    jobs: str,
) -> None:
    standby = make_standby(signal_file)
    pg_wal = standby.data / "pg_wal"
    pg_wal.rmdir()
    (disk.folder / "wal").mkdir()
    pg_wal.symlink_to(give(disk.folder / "wal"))
    standby.spool = disk.folder / "spool"  # where the role puts it
    disk.fill(but=5 * MIB)
    call = standby.fetch(angus.segments[4], "-p", jobs, host="gate")
    assert call.status == status
    assert "cannot write pg_wal/RECOVERYXLOG: No space left on device" in call.lines[-1]
    assert standby.pg_wal() == []
    (disk.folder / "filling").unlink()
    assert standby.fetch(angus.segments[4], "-p", jobs, host="gate").status == 0
    assert standby.delivered() == wal(angus.segments[4])
