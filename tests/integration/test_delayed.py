"""Test a standby that replays late: what was fetched for it is not fetched again."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost, install
from tests.support.postgres import Server
from tests.support.processes import PYTHON, give, processes, wait_until

from .conftest import Primary, rows

# Seconds after which the prefetch process of these tests ends, and between two commits,
# each in a segment of its own.
IDLE, PACE = 2.0, 5.0
# Segments, and how many of them are fetched ahead.
COUNT, JOBS = 6, 4


@pytest.fixture
def impatient(workdir: Path) -> Path:
    """Return a fetcher whose prefetch process is soon idle."""
    fetcher = install(workdir / "lib")
    code = workdir / "lib" / "walbasin" / "prefetch" / "process.py"
    text = code.read_text()
    assert "IDLE_LIMIT = 60.0" in text
    code.write_text(text.replace("IDLE_LIMIT = 60.0", f"IDLE_LIMIT = {IDLE}"))
    subprocess.run([PYTHON, "-m", "compileall", "-q", workdir / "lib"], check=True)
    return fetcher


def sent(barman: BarmanHost, server: str) -> list[str]:
    """Return the segments of a server that the gate has sent, in order."""
    log = (barman.home / "barman.log").read_text()
    words = [line.split("'") for line in log.splitlines() if f"for server '{server}'" in line and "Sending WAL" in line]
    return [found[1] for found in words if len(found[1]) == 24]


@pytest.fixture
def paced(
    copy_of_base: Callable[..., Server],
    restore_command: Callable[..., str],
    barman: BarmanHost,
    angus: Primary,
    workdir: Path,
    name: str,
) -> Iterator[tuple[Server, float]]:
    """Return a base backup of a primary, and the time of its first commit after it.

    The primary commits every PACE seconds, and archives to a server of Barman that has
    the test's name.
    """
    barman.add_server(name)
    give(barman.home / name / "incoming")
    primary = copy_of_base("paced", "standby.signal", restore_command=restore_command())
    primary.start()
    wait_until(lambda: rows(primary) == angus.rows, "the last archived row", 120)
    primary.promote()
    primary.configure(
        archive_mode="on",
        archive_command=barman.archive_command(name, workdir),
        restore_command="",
        wal_level="replica",
    )
    primary.stop()
    primary.start()
    primary.sql("CREATE TABLE paced (n integer)")
    where = ("-h", "127.0.0.1", "-p", str(primary.port))
    primary.program("pg_basebackup", "-D", workdir / "base", *where, "-X", "none", "-c", "fast")
    first = time.monotonic()
    for number in range(COUNT):
        primary.sql(f"INSERT INTO paced VALUES ({number})")
        last = primary.sql("SELECT pg_walfile_name(pg_switch_wal())")
        time.sleep(max(0.0, first + (number + 1) * PACE - time.monotonic()))
    wait_until(lambda: primary.sql("SELECT last_archived_wal FROM pg_stat_archiver") == last, "archiving", 60)
    base = Server(workdir / "base")
    yield base, first
    base.end()


@pytest.mark.matrix
def test_delayed_standby(
    paced: tuple[Server, float], impatient: Path, barman: BarmanHost, workdir: Path, name: str
) -> None:
    chris, first = paced
    command = barman.restore_command(impatient, workdir / "spool", "-p", str(JOBS), host="gate", server=name)
    # So that it waits for each commit, the first one included.
    delay = time.monotonic() - first + 15
    chris.configure(archive_mode="off", restore_command=command, recovery_min_apply_delay=f"{delay:.0f}s")
    if chris.data.joinpath("PG_VERSION").read_text().strip() >= "15":
        # It would read ahead here, as these segments are nearly empty.
        chris.configure(recovery_prefetch="off")
    (chris.data / "standby.signal").touch()
    give(chris.data / "standby.signal")
    chris.start()
    ends = 0
    was_there = False
    while chris.sql("SELECT count(*) FROM paced") != str(COUNT):
        is_there = bool(processes([f"--spool-dir {workdir}/spool"]))
        ends += was_there and not is_there
        was_there = is_there
        time.sleep(0.2)
    restored = [line for line in chris.log().splitlines() if 'restored log file "' in line and ".history" not in line]
    used, fetched = len(restored), sent(barman, name)
    print(f"{len(fetched)} segments sent, {used} used; the prefetch process has ended {ends} times")
    assert ends >= 2, "it was idle in between"
    assert len(fetched) <= 1.1 * used
    chris.promote()
    wait_until(lambda: not list((workdir / "spool").rglob("0*")), "an empty spool")
