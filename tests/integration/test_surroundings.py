"""Test prefetch in the surroundings that people give to restore_command."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.postgres import Server
from tests.support.processes import IS_ROOT, ME, POSTGRES, PYTHON, give_folder, start, wait_until
from tests.support.standby import DESTINATION, Standby

from .conftest import Primary

# Hands on as many descriptors as PostgreSQL up to 15 may.
CROWDED = """#!{python}
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, {hard}))
while os.open("/dev/null", 0) < 1010: pass
for each in range(3, 1011): os.set_inheritable(each, True)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Each is a process 1: one that never waits for a child, one that has waited for its own
# children only, and one that takes whatever ends.
PROCESS_1 = {
    "sleep": ["sleep", "60"],
    "python": [
        str(PYTHON),
        "-c",
        "import os, subprocess; subprocess.run(['true']); os.execvp('sleep', ['sleep', '60'])",
    ],
    "sh": ["sh", "-c", "sleep 60; true"],
}


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (["-p", "4"], []),
        ([], ["-p", "4"]),
        (["-s", "1"], ["--parallel=4"]),
        (["-p4"], ["-s1"]),
        (["-zp4"], []),
        (["--para", "4"], []),  # argparse takes it, the shell does not
        ([], ["--para", "4"]),
    ],
    ids=str,
)
def test_options_anywhere(
    served: Standby, angus: Primary, barman: BarmanHost, before: list[str], behind: list[str]
) -> None:
    """Share one prefetch process, wherever the options are, and however written."""
    seen: set[int] = set()
    common: list[str | Path] = [
        served.fetcher,
        "--ssh-config",
        barman.client / "ssh_config",
        "--spool-dir",
        served.spool,
        "-U",
        ME,
    ]
    for name in angus.segments[1:7]:
        call = start([*common, *before, "gate", "angus", name, DESTINATION, *behind], served.data)
        _, stderr = call.communicate(timeout=60)
        assert (call.returncode, stderr) == (0, "")
        served.delivered()
        seen |= set(served.prefetch_process_ids())
    assert len(seen) == 1


@pytest.mark.parametrize("hard", [1024, 4096])
def test_descriptors_inherited(served: Standby, angus: Primary, barman: BarmanHost, workdir: Path, hard: int) -> None:
    wrapper = workdir / "crowded"
    wrapper.write_text(CROWDED.format(python=PYTHON, hard=hard))
    wrapper.chmod(0o755)
    for name in angus.segments[2:5]:
        words: list[str | Path] = [
            wrapper,
            served.fetcher,
            "--ssh-config",
            barman.client / "ssh_config",
            "--spool-dir",
            served.spool,
        ]
        call = start([*words, "-U", ME, "-p", "4", "gate", "angus", name, DESTINATION], served.data)
        _, stderr = call.communicate(timeout=60)
        assert (call.returncode, stderr) == (0, "")
        served.delivered()
    (process,) = served.prefetch_process_ids()
    assert len(list(Path(f"/proc/{process}/fd").iterdir())) < 50


def test_lock_around_command(
    copy_of_base: Callable[..., Server], restore_command: Callable[..., str], workdir: Path
) -> None:
    """End a lock with the call that holds it, not with the prefetch process."""
    guard = give_folder(workdir / "guard") / "lock"
    command = f"flock -n {guard} {restore_command('-p', '4')}"
    chris = copy_of_base("chris", "standby.signal", restore_command=command)
    chris.start(wait=False)
    wait_until(lambda: chris.log().count("restored log file") >= 8, "eight segments", 40)


@pytest.fixture
def process_1() -> Iterator[Callable[..., int]]:
    """Return a function that starts a namespace with a process 1 of its own."""
    started: list[tuple[subprocess.Popen[bytes], int]] = []

    def make(*command: str) -> int:
        container = subprocess.Popen(["unshare", "--pid", "--fork", "--mount-proc", *command])
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
        wait_until(lambda: children.read_text() != "", "process 1")
        started.append((container, int(children.read_text())))
        time.sleep(0.5)  # until it has its own handlers
        return started[-1][1]

    yield make
    for container, first in started:
        os.kill(first, signal.SIGKILL)
        container.wait()


@pytest.mark.skipif(not IS_ROOT, reason="only root makes namespaces")
@pytest.mark.parametrize(("program", "most"), [("sleep", 0), ("python", 1), ("sh", 0)])
def test_process_1(
    served: Standby, angus: Primary, barman: BarmanHost, process_1: Callable[..., int], program: str, most: int
) -> None:
    """Leave no zombie for each segment to a process 1 that does not reap."""
    first = process_1(*PROCESS_1[program])
    enter = ["nsenter", "-t", str(first), "-p", "-m", "--", "setpriv", f"--reuid={POSTGRES}", f"--regid={POSTGRES}"]
    words: list[str | Path] = [
        served.fetcher,
        "--ssh-config",
        barman.client / "ssh_config",
        "--spool-dir",
        served.spool,
        "-U",
        ME,
    ]
    for name in angus.segments[2:6]:
        where = ["gate", "angus", name, DESTINATION]
        subprocess.run([*enter, "--clear-groups", "env", "-C", served.data, *words, "-p", "4", *where], check=True)
        served.delivered()
        for process in served.prefetch_process_ids():
            os.kill(process, signal.SIGTERM)  # as after a minute without a call
        wait_until(lambda: not served.prefetch_processes(), "its end")
        for file in served.spool.rglob("process"):
            os.utime(file, (0, 0))  # long ago
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")]
    assert len([each for each in stats if each[0] == "Z" and each[1] == str(first)]) <= most


def test_other_destination(served: Standby, angus: Primary, workdir: Path) -> None:
    """Prefetch for a wrapper that gives files of its own."""
    elsewhere = give_folder(workdir / "elsewhere")
    for name in angus.segments[2:5]:
        call = served.fetch(name, "-p", "4", host="gate", destination=elsewhere / name)
        assert (call.status, call.stderr) == (0, "")
    served.wait_for_spooled(angus.segments[5])


def test_pg_rewind_without_prefetch(served: Standby, angus: Primary) -> None:
    name = angus.segments[3]
    assert served.fetch(name, "-p", "4", host="gate", destination=f"pg_wal/{name}").status == 0
    assert served.spooled() == []
    assert served.prefetch_process_ids() == []


@pytest.fixture
def default_config(barman: BarmanHost) -> Iterator[str]:
    """Put Barman's configuration in its usual place, so that the gate needs no name."""
    keys = barman.authorized_keys
    default, text = keys.parents[1] / ".barman.conf", keys.read_text()
    default.write_text((barman.folder / "barman.conf").read_text())
    keys.write_text(text.replace(f" --config {barman.folder}/barman.conf", ""))
    yield str(default)
    keys.write_text(text)
    default.unlink()


def test_default_configuration_named(served: Standby, angus: Primary, default_config: str) -> None:
    for jobs in ("0", "4"):
        call = served.fetch(angus.segments[3], "-c", default_config, "-p", jobs, host="gate")
        assert call.status == 0, call.stderr
    call = served.fetch(angus.segments[3], "-c", "/etc/passwd", "-p", "0", host="gate")
    assert call.status == 2
    assert "does not use the configuration" in call.stderr
