"""Send signals to each of the processes that take part in a call, at any moment."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.processes import processes, wait_until
from tests.support.standby import DESTINATION, Standby

from .conftest import Primary


def start_held_fetch(standby: Standby, name: str, *options: str) -> "subprocess.Popen[str]":
    """Return a call in the middle of its fetch, which Barman holds."""
    standby.barman.hold(name)
    process = standby.start(name, *options)

    def has_first_bytes() -> bool:
        return any((standby.data / "pg_wal" / file).stat().st_size > 500_000 for file in standby.pg_wal())

    wait_until(has_first_bytes, "the fetch")
    return process


@pytest.mark.parametrize("signal_file", ["standby.signal", "recovery.signal"])
def test_sigterm_during_fetch(make_standby: Callable[..., Standby], angus: Primary, signal_file: str) -> None:
    standby = make_standby(signal_file)
    process = start_held_fetch(standby, angus.segments[4], "-s", "60")
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert stderr == ""
    assert standby.pg_wal() == []
    assert not processes([standby.folder])
    assert not processes(["ssh ", standby.barman.client, angus.segments[4]])


def test_sigterm_during_sleep(chris: Standby, angus: Primary) -> None:
    process = chris.start(angus.segments[4], "-s", "60", host="refused")
    time.sleep(2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_sweep_after_kill(chris: Standby, angus: Primary, wal: Callable[[str], bytes]) -> None:
    process = start_held_fetch(chris, angus.segments[4])
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert len(chris.pg_wal()) == 1, "there is something to sweep"
    assert chris.pg_wal() != ["RECOVERYXLOG"]
    chris.barman.calm()
    assert chris.fetch(angus.segments[4], "-p", "3").status == 0
    wait_until(lambda: chris.pg_wal() == ["RECOVERYXLOG"], "the sweeping")
    assert chris.delivered() == wal(angus.segments[4])


def test_no_delivery_after_shell_killed(chris: Standby, angus: Primary) -> None:
    """Leave the destination alone: PostgreSQL may have started the next call for it."""
    process = start_held_fetch(chris, angus.segments[4])
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert processes([chris.folder]), "the fetch goes on"
    chris.barman.calm()
    process.communicate(timeout=30)
    assert not processes([chris.folder])
    assert chris.pg_wal() == []


def test_no_retry_after_shell_killed(recovering: Standby, angus: Primary) -> None:
    process = recovering.start(angus.segments[4], "--retry", "3600", host="refused")
    time.sleep(1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


# The number of calls of one test, in each of which a process is killed.
POINTS = 40
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT)


def participants(standby: Standby, call: "subprocess.Popen[str]") -> dict[str, list[int]]:
    """Return the processes that take part in a call: role -> process ids."""
    barman = standby.barman
    found: dict[str, list[int]] = {"caller": [], "fetcher": [], "prefetch": [], "ssh": [], "gate": [], "sshd": []}
    sshd = barman.connections()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line, number = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(), int(path.name)
            group = os.getpgid(number)
        except OSError:
            continue
        if line.startswith("ssh ") and str(barman.client) in line:
            found["ssh"].append(number)
        elif str(standby.spool) in line:
            found["caller" if number == call.pid else "fetcher" if group == call.pid else "prefetch"].append(number)
        elif f"{barman.folder}/lib/walbasin" in line or f"{barman.folder}/bin/barman" in line:
            found["gate"].append(number)
        elif number in sshd:
            found["sshd"].append(number)
    return {what: numbers for what, numbers in found.items() if numbers}


def sleep_briefly(chance: random.Random) -> None:
    """Sleep for a random time, mostly a short one: most of a call happens early."""
    time.sleep(min(chance.expovariate(8), 1.0))


# The kills take two minutes, and longer where everything else runs beside them.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("host", ["gate", "stock"])
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.matrix) for seed in range(2, 20))])
def test_random_kills(
    served: Standby, angus: Primary, wal: Callable[[str], bytes], barman: BarmanHost, host: str, seed: int
) -> None:
    """Deliver nothing wrong, have the next call work, and leave no process."""
    chance = random.Random(seed)
    position, killed = 0, []
    for point in range(POINTS):
        position = chance.choice([(position + 1) % 8, (position + 1) % 8, chance.randrange(8)])
        name = angus.segments[position]
        jobs = chance.choice(["3", "3", "3", "1"])
        call = served.start(name, "-p", jobs, host=host)
        sleep_briefly(chance)
        there = participants(served, call)
        number = chance.choice(SIGNALS)
        if there:
            what = chance.choice(sorted(there))
            victim = chance.choice(there[what])
            killed.append(what)
            try:
                if what == "caller" and chance.random() < 0.5:
                    os.killpg(call.pid, number)
                else:
                    os.kill(victim, number)
            except ProcessLookupError:
                pass
        _, stderr = call.communicate(timeout=60)
        where = f"seed {seed}, point {point}, {name}, {number.name} to {killed[-1:]}: {stderr}"
        # Accept no status 1: the segment is in the archive. Accept no other status that
        # the fetcher does not have.
        assert call.returncode in (0, 2, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGQUIT), where
        assert "Traceback" not in stderr, where
        if (served.data / DESTINATION).exists():
            assert served.delivered() == wal(name), where
        else:
            assert call.returncode != 0, where
        for note in served.spool.rglob("outage"):
            note.unlink()
        again = served.fetch(name, "-p", jobs, host=host)
        assert again.status == 0, f"{where} then {again}"
        assert served.delivered() == wal(name), where
    print(f"seed {seed}: " + ", ".join(f"{killed.count(what)} {what}" for what in sorted(set(killed))))
    # Call once more: the last victim may have been the process that empties the spool.
    assert served.fetch(angus.segments[0], "-p", "3", host=host).status == 0
    assert served.delivered() == wal(angus.segments[0])
    (served.data / "postmaster.pid").unlink()
    wait_until(lambda: not processes([served.folder]), "the end of all processes", 10)
    wait_until(lambda: not processes(["ssh ", barman.client]), "the end of every ssh", 10)
    assert served.pg_wal() == []
    assert served.spooled() == []
