"""Test a Barman host that wants to fill the standby's disk, or to hold it up."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.postgres import SEGMENT_SIZE
from tests.support.processes import wait_until
from tests.support.standby import Call, Standby

from .conftest import Primary

MIB = 1 << 20
# How a fetch with the prefetch process goes through the gate's protocol, and without it
# through `barman get-wal`.
both_ways = pytest.mark.parametrize("jobs", ["0", "3"])


class DiskUse:
    """Hold the most bytes that the files below some folders had at a time."""

    def __init__(self, folders: list[Path]) -> None:
        self.most = 0
        self._folders = folders
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.003):
            self.most = max(self.most, sum(map(self._size_of, self._folders)))

    def _size_of(self, folder: Path) -> int:
        total = 0
        for path in folder.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except OSError:
                continue
        return total

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def disk_use(served: Standby) -> Iterator[DiskUse]:
    use = DiskUse([served.spool, served.data / "pg_wal"])
    yield use
    use.end()


def announce(jobs: str, length: int) -> str:
    """Return a script that announces a piece of a file in the gate's protocol."""
    number = "".join(f"\\{byte:03o}" for byte in length.to_bytes(8, "big"))
    return "" if jobs == "0" else f"printf 'D{number}'\n"


def greet(jobs: str) -> str:
    return "" if jobs == "0" else "echo barman-wal-gate 1 ready\n"


def last_error(standby: Standby) -> str:
    """Return what the prefetch process has counted last as an error."""
    status = standby.fetch("test", "--status", "--json", host="hostile")
    return str(json.loads(status.stdout)["counters"]["last_error"])


def assert_refused(standby: Standby, call: Call, jobs: str, cause: str) -> None:
    """Assert that both ways have refused the file, and for which cause."""
    assert (call.status, len(call.lines)) == (3, 1)
    assert "was refused" in call.stderr
    if jobs != "0":
        # The prefetch process keeps its counters once a second.
        wait_until(lambda: last_error(standby), "the counters")
        assert cause in last_error(standby)
    else:
        assert cause in call.stderr
    assert (standby.pg_wal(), standby.spooled()) == ([], [])


def bomb(folder: Path, kind: str) -> Path:
    """Return a compressed file of some KB that expands to 900 MiB."""
    file = folder / f"bomb.{kind}"
    subprocess.run(f"head -c {900 * MIB} /dev/zero | {kind} -1 -c >{file}", shell=True, check=True)
    file.chmod(0o644)
    return file


@both_ways
@pytest.mark.parametrize(("kind", "cause"), [("zstd", "its compression is damaged"), ("gzip", "bytes at most")])
def test_file_that_expands(
    served: Standby, angus: Primary, barman: BarmanHost, disk_use: DiskUse, kind: str, cause: str, jobs: str
) -> None:
    file = bomb(barman.folder, kind)
    end = "" if jobs == "0" else "printf '.\\0\\0\\0\\0\\0\\0\\0\\0'\n"
    barman.attack(f"{greet(jobs)}{announce(jobs, file.stat().st_size)}cat {file}\n{end}sleep 1\n")
    call = served.fetch(angus.segments[4], "-p", jobs, "--keep-compression", host="hostile")
    assert_refused(served, call, jobs, "WAL page header" if jobs == "0" and kind == "gzip" else cause)
    assert disk_use.most <= 2 * SEGMENT_SIZE


@both_ways
@pytest.mark.parametrize("piece", [600, 1], ids=["announced at once", "in pieces"])
def test_file_without_end(
    served: Standby, angus: Primary, barman: BarmanHost, disk_use: DiskUse, jobs: str, piece: int
) -> None:
    """Read and write no more than a segment of 600 MiB."""
    sent = barman.folder / "sent"
    sent.write_text("")
    mib = f"head -c {MIB} /dev/zero && echo >>{sent} || exit"
    begin, each = (announce(jobs, 600 * MIB), "") if piece == 600 else ("", announce(jobs, MIB))
    barman.attack(f"{greet(jobs)}{begin}for n in $(seq 600); do\n{each}{mib}\ndone\n")
    call = served.fetch(angus.segments[4], "-p", jobs, host="hostile")
    # Zeros: the direct way says what it has seen.
    assert_refused(served, call, jobs, "WAL page header" if jobs == "0" else f"{SEGMENT_SIZE} bytes at most")
    assert disk_use.most <= 2 * SEGMENT_SIZE
    assert len(sent.read_text()) < 100, "it is not read to its end"


@both_ways
def test_trickle(served: Standby, angus: Primary, barman: BarmanHost, jobs: str) -> None:
    barman.attack(f"{greet(jobs)}{announce(jobs, SEGMENT_SIZE)}while sleep 1; do printf x; done\n")
    call = served.fetch(angus.segments[4], "-p", jobs, host="hostile")
    assert (call.status, len(call.lines)) == (2, 1)
    assert "hostile sends too slowly" in call.stderr
    assert 30 <= call.seconds < 58
    assert served.pg_wal() == []


def test_trickle_to_selftest(served: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.attack("while sleep 1; do printf x; done\n")
    call = served.fetch(angus.segments[4], "-t", host="hostile")
    assert call.status == 2
    assert "hostile sends too slowly" in call.stderr
    assert 30 <= call.seconds < 58
