"""Test the prefetch process behind -p: what it keeps ready, and when it ends."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost, install
from tests.support.fake_server import FakeServer
from tests.support.processes import give, processes, wait_until
from tests.support.standby import Standby, claim

from .conftest import Primary

# Seconds, well below the idle limit of 60, which ends the process as well.
LONG_BEFORE_IDLE = 20


def test_next_segments_over_one_connection(served: Standby, angus: Primary, barman: BarmanHost) -> None:
    names = angus.segments[2:]
    assert served.fetch(names[0], "-p", "3", host="gate").status == 0
    for name in names[1:4]:
        served.wait_for_spooled(name)
        assert served.fetch(name, "-p", "3", host="gate").status == 0, name
    assert barman.requests() == [], "the gate reads Barman's folders, and starts no Barman"
    assert len([line for line in served.prefetch_processes() if "sshd" not in line]) <= 2, "itself, and one ssh"


def test_barman_log_line(served: Standby, angus: Primary, barman: BarmanHost) -> None:
    assert served.fetch(angus.segments[3], "-p", "2", host="gate").status == 0
    line = f"Sending WAL '{angus.segments[3]}' for server 'angus' to standard output (SSH host: 127.0.0.1)"
    assert line in (barman.home / "barman.log").read_text()


def test_hit_without_python(served: Standby, angus: Primary, wal: Callable[[str], bytes], workdir: Path) -> None:
    first, second = angus.segments[2:4]
    served.fetcher = install(workdir / "lib")
    assert served.fetch(first, "-p", "2", host="gate").status == 0
    served.wait_for_spooled(second)
    (workdir / "lib" / "interpreter").write_text("/bin/false\n")
    assert served.fetch(second, "-p", "2", host="gate").status == 0
    assert served.delivered() == wal(second)
    call = served.fetch("0000000100000000000000EE", "-p", "2", host="gate")
    assert (call.status, "ended with status 1" in call.stderr) == (2, True), "the counter-proof"


@pytest.mark.parametrize("what", ["a link to elsewhere", "another boot"])
def test_untrusted_spool_link(served: Standby, angus: Primary, workdir: Path, what: str) -> None:
    served.fetcher = install(workdir / "lib")
    assert served.fetch(angus.segments[2], "-p", "2", host="gate").status == 0
    (link,) = [path for path in served.spool.iterdir() if path.is_symlink()]
    ready = link.resolve()
    elsewhere = workdir / "elsewhere" if what == "a link to elsewhere" else ready.parent / "former"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "0000000100000000000000EE").touch()
    give(elsewhere)
    link.unlink()
    link.symlink_to(elsewhere)
    assert served.fetch("0000000100000000000000EE", "-p", "2", host="gate").status == 1
    assert served.pg_wal() == ["RECOVERYXLOG"]


def test_sigterm_to_prefetch_process(served: Standby, angus: Primary) -> None:
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    (prefetch_process,) = served.prefetch_process_ids()
    os.kill(prefetch_process, signal.SIGTERM)
    wait_until(lambda: not served.prefetch_processes(), "its end", LONG_BEFORE_IDLE)
    assert served.spooled() == []
    assert served.fetch(angus.segments[3], "-p", "3", host="gate").status == 0, "the next call starts another"


def test_sigkill_to_prefetch_process(served: Standby, angus: Primary) -> None:
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    (prefetch_process,) = served.prefetch_process_ids()
    os.kill(prefetch_process, signal.SIGKILL)
    call = served.fetch(angus.segments[7], "-p", "3", host="gate")
    assert (call.status, call.stderr) == (0, "")


def test_end_with_killed_server(served: Standby, angus: Primary) -> None:
    """Leave no process when the server has gone."""
    server = subprocess.Popen(["sleep", "60"])
    claim(served.data, server.pid)
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    assert served.prefetch_processes()
    server.kill()
    server.wait()
    wait_until(lambda: not served.prefetch_processes(), "its end", LONG_BEFORE_IDLE)


def test_process_after_call(
    chris: Standby, fake_server: FakeServer, restore_command: Callable[..., str], angus: Primary
) -> None:
    """Do not take the end of a call for the server's."""
    command = restore_command("-p", "2")
    assert fake_server.call(command, angus.segments[2:3]).statuses == [0]
    before = chris.prefetch_process_ids()
    assert len(before) == 1
    assert fake_server.call(command, angus.segments[3:5]).statuses == [0, 0]
    assert chris.prefetch_process_ids() == before


def test_process_end_with_startup_process(
    chris: Standby, fake_server: FakeServer, restore_command: Callable[..., str], angus: Primary
) -> None:
    """End before the postmaster, which waits for all others when its server stops."""
    assert fake_server.call(restore_command("-p", "3"), angus.segments[2:3]).statuses == [0]
    assert chris.prefetch_processes()
    startup_process = fake_server.startup_process()
    os.kill(fake_server.pid, signal.SIGSTOP)
    try:
        os.kill(startup_process, signal.SIGKILL)
        wait_until(lambda: not chris.prefetch_processes(), "its end", LONG_BEFORE_IDLE)
    finally:
        os.kill(fake_server.pid, signal.SIGCONT)


@pytest.mark.parametrize("file", ["standby.signal", "postmaster.pid"])
def test_end_with_recovery_or_server(served: Standby, angus: Primary, file: str) -> None:
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    assert served.prefetch_processes()
    (served.data / file).unlink()
    wait_until(lambda: not served.prefetch_processes(), "its end", LONG_BEFORE_IDLE)
    assert served.spooled() == []


def test_changed_options(served: Standby, angus: Primary) -> None:
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    before = served.prefetch_process_ids()
    call = served.fetch(angus.segments[7], "-p", "2", host="gate")
    assert (call.status, call.stderr) == (0, "")
    assert len(served.prefetch_process_ids()) == 1
    assert served.prefetch_process_ids() != before


def test_repeated_miss(
    served: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes], barman: BarmanHost
) -> None:
    first, second = angus.segments[4:6]
    server = archive({first: wal(first)})
    assert served.fetch(first, "-p", "3", server=server, host="gate").status == 0
    call = served.fetch(second, "-p", "3", server=server, host="gate")
    assert (call.status, len(call.lines)) == (1, 1)
    assert "not in the archive" in call.stderr
    barman.put(server, second, wal(second))
    assert served.fetch(second, "-p", "3", server=server, host="gate").status == 0
    assert served.fetch(first, "-p", "3", server=server, host="gate").status == 0, "a step back"


def test_timeline_switch_prefetched(
    served: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    last, switched = angus.segments[4:6]
    child = "00000002" + switched[8:]
    history = f"1\t0/{int(switched[16:], 16):X}000148\tno recovery target specified\n".encode()
    server = archive({last: wal(last), child: wal(switched), "00000002.history": history})
    at = "pg_wal/RECOVERYHISTORY"
    assert served.fetch("00000002.history", "-p", "3", server=server, host="gate", destination=at).status == 0
    assert served.delivered(at) == history
    assert served.fetch(last, "-p", "3", server=server, host="gate").status == 0
    served.wait_for_spooled(child)


def test_segment_size_from_first_segment(served: Standby, angus: Primary, archive: Callable[..., str]) -> None:
    """Learn the segment size from the first segment, where the cluster does not tell.

    A log has 4096 segments of 1 MiB, and 256 of the usual 16 MiB.
    """
    control = served.data / "global" / "pg_control"
    control.write_bytes(wal_builder.build_control(15, angus.system_identifier))
    names = [f"0000000100000000{number:08X}" for number in (0xFE, 0xFF, 0x100)]
    server = archive(
        {name: wal_builder.build_segment(name, angus.system_identifier, wal_builder.MIB) for name in names}
    )
    assert served.fetch(names[0], "-p", "3", server=server, host="gate").status == 0
    served.wait_for_spooled(*names[1:])


def test_process_1_as_postmaster(served: Standby, angus: Primary) -> None:
    claim(served.data, 1)
    call = served.fetch(angus.segments[2], "-p", "3", host="gate")
    assert (call.status, len(call.lines)) == (0, 1)
    assert "process 1 is the postmaster" in call.stderr
    assert not served.prefetch_processes()
    assert served.spooled() == angus.segments[3:5]
    call = served.fetch(angus.segments[5], "-p", "3", host="gate")
    assert (call.status, call.stderr) == (0, ""), "the message comes once"


@pytest.mark.parametrize("kind", [one for one in ("gzip", "bzip2", "xz", "zstd", "lz4") if shutil.which(one)])
def test_stored_compression_kept_in_transfer(
    served: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes], kind: str
) -> None:
    first, second = angus.segments[4:6]

    def stored(name: str) -> bytes:
        return subprocess.run([kind, "-1", "-c"], input=wal(name), stdout=subprocess.PIPE, check=True).stdout

    server = archive({first: stored(first), second: stored(second)})
    assert served.fetch(first, "-p", "2", server=server, host="gate").status == 0
    assert served.delivered() == wal(first)
    served.wait_for_spooled(second)
    assert served.barman.requests() == []


def test_forced_mode_and_gap(
    served: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    first, gap, after = angus.segments[4:7]
    server = archive({first: wal(first), after: wal(after)})
    assert served.fetch(first, "-p", "2", "--mode", "recovery", server=server, host="gate").status == 0
    call = served.fetch(gap, "-p", "2", "--mode", "recovery", "--retry", "0", server=server, host="gate")
    assert call.status == 200
    assert "a gap" in call.stderr


@pytest.fixture
def stock_folder_known(served: Standby, barman: BarmanHost) -> Callable[..., None]:
    """Return a function that waits for the query of a stock host's folder of WAL."""

    def wait(server: str = "angus") -> None:
        wait_until(lambda: any("show-servers" in line for line in barman.requests()), "the query", step=0.05)
        wait_until(lambda: not processes(["show-servers", server]), "its reply")

    return wait


def test_stock_host_read_in_place(
    served: Standby,
    angus: Primary,
    barman: BarmanHost,
    wal: Callable[[str], bytes],
    stock_folder_known: Callable[..., None],
) -> None:
    assert served.fetch(angus.segments[1], "-p", "2", host="stock").status == 0
    stock_folder_known()
    for name in angus.segments[4:7]:
        barman.requests()
        assert served.fetch(name, "-p", "2", host="stock").status == 0
        assert served.delivered() == wal(name)
        assert not any("get-wal" in line for line in barman.requests())


def test_stock_host_fallback_to_get_wal(
    served: Standby,
    angus: Primary,
    barman: BarmanHost,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    stock_folder_known: Callable[..., None],
) -> None:
    first, incoming, missing = angus.segments[4:7]
    server = archive({first: wal(first)})
    (barman.home / server / "incoming" / incoming).write_bytes(wal(incoming))
    assert served.fetch(first, "-p", "2", host="stock", server=server).status == 0
    stock_folder_known(server)
    assert served.fetch(first, "-p", "2", host="stock", server=server).status == 0, "read"
    assert served.fetch(incoming, "-p", "2", host="stock", server=server).status == 0
    assert served.delivered() == wal(incoming)
    call = served.fetch(missing, "-p", "2", host="stock", server=server)
    assert (call.status, "not in the archive" in call.stderr) == (1, True)


def test_stock_host_damaged_segment(
    served: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    stock_folder_known: Callable[..., None],
) -> None:
    first, short = angus.segments[4:6]
    server = archive({first: wal(first), short: wal(short)[:-1]})
    assert served.fetch(first, "-p", "2", host="stock", server=server).status == 0
    stock_folder_known(server)
    assert served.fetch(short, "-p", "2", host="stock", server=server).status == 3
    assert served.pg_wal() == ["RECOVERYXLOG"], "from the first call"
