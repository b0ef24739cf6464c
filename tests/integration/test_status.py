"""Test barman-wal-restore --status: the counters, and the last test."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from walbasin import VERSION

from tests.support.processes import wait_until
from tests.support.standby import Standby

from .conftest import Primary

NOT_THERE = "0000000100000000000000EE"


def status(standby: Standby, host: str = "gate") -> Any:
    call = standby.fetch("any", "--status", "--json", host=host)
    assert (call.status, call.stderr) == (0, "")
    return json.loads(call.stdout)


def counter(standby: Standby, name: str) -> Any:
    return status(standby)["counters"][name]


def test_hits_waits_and_misses(served: Standby, angus: Primary) -> None:
    before = time.time()
    first, second, third = angus.segments[2:5]
    assert served.fetch(first, "-p", "3", host="gate").status == 0
    served.wait_for_spooled(second, third)
    for name in (second, third):
        assert served.fetch(name, "-p", "3", host="gate").status == 0
    assert served.fetch(NOT_THERE, "-p", "3", host="gate").status == 1
    wait_until(lambda: counter(served, "absent") == 1, "the counters")
    found = status(served)
    assert (found["counters"]["restored"], found["counters"]["ready"]) == (3, 2)
    assert found["counters"]["bytes"] == 3 * (16 << 20)
    assert 0 < found["counters"]["waited"] < 10, "for the first, and for the reply to the last"
    assert found["counters"]["last_segment"] == third
    assert found["counters"]["last_restored"] >= before
    assert (found["is_running"], found["is_recovering"]) == (True, True)


def test_segment_on_its_way(served: Standby, angus: Primary, wal: Callable[[str], bytes]) -> None:
    first, second = angus.segments[2:4]
    assert served.fetch(first, "-p", "2", host="gate").status == 0
    served.wait_for_spooled(second)
    ready = next(served.spool.rglob(second))
    unfinished = ready.with_name(f"{second}.unfinished")
    ready.rename(unfinished)
    with unfinished.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        call = served.start(second, "-p", "2", host="gate")
        time.sleep(1)
        unfinished.rename(ready)
    assert call.wait(30) == 0
    assert served.delivered() == wal(second)
    wait_until(lambda: counter(served, "restored") == 2, "the counters")
    assert counter(served, "ready") == 0
    assert counter(served, "waited") >= 0.9


def test_error_count_and_cause(served: Standby, angus: Primary) -> None:
    assert served.fetch(angus.segments[2], "-p", "2", host="gate", ssh_config="unplugged").status == 2
    wait_until(lambda: counter(served, "errors")["unknown"] == 1, "the counters")
    assert angus.segments[2] in counter(served, "last_error")


def test_counters_after_restart(served: Standby, angus: Primary) -> None:
    for times, number in enumerate((signal.SIGTERM, signal.SIGKILL), start=1):
        assert served.fetch(angus.segments[2], "-p", "2", host="gate").status == 0
        while counter(served, "restored") < times:  # pytest's own limit is the bound
            time.sleep(0.1)
        (prefetch_process,) = served.prefetch_process_ids()
        os.kill(prefetch_process, number)
        wait_until(lambda: not served.prefetch_processes(), "its end")
        assert counter(served, "restored") == times
    assert status(served)["is_running"] is False


def test_last_test(served: Standby, angus: Primary) -> None:
    served.make_spool()
    name = angus.segments[2]
    assert status(served)["test"]["time"] == 0
    assert served.fetch(name, "-t", host="gate").status == 0
    passed = status(served)["test"]
    assert (passed["error"], passed["gate"]) == ("", VERSION)
    assert abs(passed["time"] - time.time()) < 60
    assert served.fetch(name, "-t", host="gate", server="nobody").status == 2
    assert status(served)["test"] == passed, "another server's test is another's"
    assert served.fetch(name, "-t", host="gate", ssh_config="unplugged").status == 2
    assert "refused" in status(served)["test"]["error"]


def test_failed_test_before_a_restored_segment(served: Standby, angus: Primary) -> None:
    """Show no failed test when WAL comes again, although nobody has repeated it."""
    name = angus.segments[2]
    served.make_spool()
    assert served.fetch(name, "-t", host="gate", ssh_config="unplugged").status == 2
    failed = status(served)["test"]
    assert (failed["is_lasting"], failed["is_disproved"]) == (False, False)
    assert served.fetch(name, "-p", "3", host="gate").status == 0
    wait_until(lambda: counter(served, "restored") == 1, "the counters")
    assert status(served)["test"] == {**failed, "is_disproved": True}
    assert (
        'walbasin_test_success{barman="gate",server="angus"} 1'
        in served.fetch("any", "--status", "--prometheus", host="gate").stdout
    )


def test_last_test_without_gate(served: Standby, angus: Primary) -> None:
    served.make_spool()
    assert served.fetch(angus.segments[2], "-t", host="stock").status == 0
    assert status(served, host="stock")["test"]["gate"] == ""


def test_status_outside_data_directory(served: Standby) -> None:
    call = served.fetch("any", "--status", host="gate", cwd=served.folder)
    assert (call.status, call.stdout) == (2, "")
    assert "in the data directory of the standby" in call.lines[-1]
