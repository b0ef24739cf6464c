"""Recover real servers while the way to Barman is lost.

Barman's own client is the comparison.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from walbasin.local.promotion import STARTING

from tests.support.barman_host import BarmanHost, install_stock_client
from tests.support.network import Harm, Network
from tests.support.postgres import SEGMENT_SIZE, Server
from tests.support.processes import ME, POSTGRES, wait_until
from tests.support.standby import Standby, claim

from .conftest import RESTORE_POINT, Primary, rows

both_clients = pytest.mark.parametrize("client", ["ours", "stock"])
PLAIN = ("-p", "2", "--compress", "none")
STOPPED = "nothing is lost, mend it and start again"


@pytest.fixture
def command(
    network: Network, barman: BarmanHost, workdir: Path, restore_command: Callable[..., str]
) -> Callable[..., str]:
    """Return a function that makes a client's restore_command, through the network."""
    ssh_config = barman.reach_through(network.port)

    def make(client: str, *options: str, server: str = "angus") -> str:
        if client == "ours":
            return restore_command("-p", "2", *options, server=server, ssh_config=ssh_config)
        program = install_stock_client(workdir / "stock", barman, ssh_config)
        return f"{program} -U {ME} gate {server} %f %p"

    return make


def has_ended(server: Server) -> bool:
    """Return whether the recovery has ended, so that the server is a primary."""
    return "archive recovery complete" in server.log()


@both_clients
def test_lost_call(
    copy_of_base: Callable[..., Server],
    command: Callable[..., str],
    angus: Primary,
    barman: BarmanHost,
    client: str,
) -> None:
    """Try again after a lost call.

    Barman's own client ends the recovery there, and rows are lost without a message.
    """
    barman.drop(angus.segments[6], times=2)  # PostgreSQL asks twice
    server = copy_of_base("pitr", "recovery.signal", restore_command=command(client, "-p", "0"))
    server.start()
    wait_until(lambda: has_ended(server), "the end of recovery", 120)
    assert not barman.dropping()
    if client == "ours":
        assert rows(server) == angus.rows
        assert f"{angus.segments[6]}: ssh to gate failed" in server.log()
    else:
        assert rows(server) < angus.rows


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.matrix)])
@both_clients
def test_network_lost_for_a_while(
    copy_of_base: Callable[..., Server],
    command: Callable[..., str],
    network: Network,
    angus: Primary,
    client: str,
    seconds: int,
) -> None:
    server = copy_of_base("pitr", "recovery.signal", restore_command=f"sleep 0.3; {command(client)}")
    server.start(wait=False)
    wait_until(lambda: f'restored log file "{angus.segments[3]}"' in server.log(), "half of it", 60)
    network.partition()
    if client == "ours":
        time.sleep(seconds)
        assert not has_ended(server)
        network.heal()
    wait_until(lambda: has_ended(server), "the end of recovery", 150)
    if client == "ours":
        assert rows(server) == angus.rows
        assert "trying again in" in server.log()
    else:
        assert rows(server) < angus.rows


def test_network_lost_for_good(
    copy_of_base: Callable[..., Server], command: Callable[..., str], network: Network, angus: Primary
) -> None:
    server = copy_of_base(
        "pitr",
        "recovery.signal",
        restore_command=f"sleep 0.3; {command('ours', '--retry', '3')}",
        recovery_target_name=RESTORE_POINT,
        recovery_target_action="promote",
    )
    server.start(wait=False)
    wait_until(lambda: f'restored log file "{angus.segments[1]}"' in server.log(), "a part", 60)
    network.partition()
    for _ in range(2):  # a start that is too early loses nothing
        wait_until(lambda: not server.is_running(), "its end", 60)
        assert STOPPED in server.log()
        with pytest.raises(AssertionError, match="could not start server"):
            server.start()
    assert not has_ended(server)
    network.heal()
    server.start()
    wait_until(lambda: has_ended(server), "the end of recovery", 120)
    assert rows(server) == angus.rows_at_restore_point


@both_clients
def test_archive_gap(
    copy_of_base: Callable[..., Server],
    command: Callable[..., str],
    angus: Primary,
    barman: BarmanHost,
    name: str,
    client: str,
) -> None:
    copy_the_archive(barman, name)
    restore_command = command(client, "--retry", "1", server=name)
    server = copy_of_base("pitr", "recovery.signal", restore_command=restore_command)
    recover_across_gap(barman.file(name, angus.segments[5]), angus.segments[6], server, client, angus.rows, angus.rows)


@both_clients
def test_archive_gap_before_switch(
    copy_of_base: Callable[..., Server],
    command: Callable[..., str],
    angus: Primary,
    barman: BarmanHost,
    name: str,
    client: str,
) -> None:
    """Notice the gap that a dead primary leaves before its successor's timeline."""
    copy_the_archive(barman, name)
    chris = copy_of_base("chris", "standby.signal", restore_command=command("ours", server=name))
    chris.start()
    wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)
    chris.promote()
    chris.sql("INSERT INTO t SELECT generate_series(1, 7)")
    begin = chris.sql("SELECT pg_walfile_name(pg_switch_wal())")
    for file in ("00000002.history", begin):
        barman.put(name, file, (chris.data / "pg_wal" / file).read_bytes())
    written = rows(chris)
    chris.stop()
    server = copy_of_base("pitr", "recovery.signal", restore_command=command(client, "--retry", "1", server=name))
    recover_across_gap(barman.file(name, angus.segments[-1]), begin, server, client, angus.rows, written)


def copy_the_archive(barman: BarmanHost, name: str) -> None:
    """Add a server to Barman with all that angus has archived."""
    barman.add_server(name)
    shutil.copytree(barman.home / "angus" / "wals", barman.home / name / "wals", dirs_exist_ok=True)


def recover_across_gap(gap: Path, later: str, server: Server, client: str, lost: int, written: int) -> None:
    """Recover without a segment, although the archive holds a later one; then with it.

    The stock client ends the recovery with fewer than `lost` rows. Ours stops the
    server, which then recovers all `written` rows.
    """
    content = gap.read_bytes()
    gap.unlink()
    server.start(wait=False)
    if client == "stock":
        wait_until(lambda: has_ended(server), "the end of recovery", 120)
        assert rows(server) < lost
        return
    wait_until(lambda: STOPPED in server.log() and not server.is_running(), "its end", 60)
    assert not has_ended(server)
    assert f"{gap.name}: the archive has a gap here: it holds {later}" in server.log()
    gap.write_bytes(content)
    server.start()
    wait_until(lambda: has_ended(server), "the end of recovery", 120)
    assert rows(server) == written


# --- The end of recovery


def recorded(command: str) -> str:
    """Return a restore_command that records each call in the data directory.

    It appends the exit status, the WAL name and the signal files to the file `calls`.
    """
    return f"{command}; status=$?; echo $status %f *.signal >>calls; exit $status"


def wait_for_end_of_start(server: Server) -> None:
    """Wait until a server does not change its data directory by itself any more."""
    started = int((server.data / "postmaster.pid").read_text().splitlines()[2])
    wait_until(lambda: time.time() > started + STARTING + 1, "the end of the start")


def calls(server: Server) -> list[list[str]]:
    """Return the recorded calls, each as a list of words."""
    return [line.split() for line in (server.data / "calls").read_text().splitlines()]


@pytest.mark.parametrize("state", ["refused", "black hole", "frozen", "frozen in mid-segment"])
@pytest.mark.parametrize("jobs", ["0", "2"])
def test_promotion_while_call_waits(
    copy_of_base: Callable[..., Server],
    command: Callable[..., str],
    network: Network,
    angus: Primary,
    state: str,
    jobs: str,
) -> None:
    """Hold up no promotion, whatever a call waits for."""
    options = ("-s", "10", "-p", jobs, "--compress", "none")  # half a segment has come after half of its bytes
    chris = copy_of_base("chris", "standby.signal", restore_command=command("ours", *options))
    if state == "frozen in mid-segment":
        # Without prefetch each segment has a connection of its own.
        network.harm = Harm("silence", SEGMENT_SIZE // 2 if jobs == "0" else 5 * SEGMENT_SIZE // 2)
        network.harmed = 0 if jobs == "0" else None
        chris.start()
        wait_until(lambda: f'restored log file "{angus.segments[1]}"' in chris.log(), "a part", 60)
        network.harmed = None
        time.sleep(1)
        if jobs != "0":  # nor does a new connection bring more
            network.harm = Harm("silence", 0)
    else:
        chris.start()
        wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)
        network.harm = Harm("silence", 0)
        if state == "refused":
            network.partition()
        elif state == "black hole":
            network.partition()
            network.heal()
    time.sleep(3)
    started = time.monotonic()
    chris.promote()
    took = time.monotonic() - started
    assert took < 8, chris.log()[-3000:]


@pytest.mark.parametrize("jobs", ["0", "8"])
def test_promotion_of_streaming_standby(
    copy_of_base: Callable[..., Server], command: Callable[..., str], network: Network, angus: Primary, jobs: str
) -> None:
    """Hold up no promotion where no call before has seen that Barman is frozen.

    The startup process takes the file `promote` away before its first call.
    """
    conninfo = f"host=127.0.0.1 port={angus.server.port} user={POSTGRES}"
    chris = copy_of_base(
        "chris", "standby.signal", primary_conninfo=conninfo, restore_command=command("ours", "-s", "10", "-p", jobs)
    )
    chris.start()
    streaming = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
    wait_until(lambda: chris.sql(streaming) == "1", "streaming", 60)
    wait_for_end_of_start(chris)
    network.harm = Harm("silence", 0)
    started = time.monotonic()
    chris.promote()
    took = time.monotonic() - started
    assert took < 8, chris.log()[-3000:]
    assert "given up, because this server is to be promoted" in chris.log()
    assert rows(chris) == angus.rows


@pytest.mark.parametrize("jobs", ["0", "8"])
def test_last_call_of_a_promotion(served: Standby, network: Network, barman: BarmanHost, jobs: str) -> None:
    """Do not wait for Barman when the signal file has gone."""
    ssh_config = barman.reach_through(network.port)
    network.harm = Harm("silence", 0)
    (served.data / "standby.signal").unlink()
    call = served.fetch("00000001.history", "-p", jobs, "-s", "10", host="gate", ssh_config=ssh_config)
    assert call.status == 2
    assert call.seconds < 8, call.stderr
    assert served.prefetch_process_ids() == []


def test_skipped_calls_of_a_promotion(served: Standby, angus: Primary) -> None:
    """Skip the calls that follow one that has seen `promote`."""
    name = angus.segments[4]
    assert served.fetch(name, "-p", "0", host="gate", ssh_config="unplugged").status == 2
    time.sleep(10)
    (served.data / "promote").touch()
    assert served.fetch(name, "-p", "0", host="gate").status == 2
    (served.data / "promote").unlink()
    time.sleep(10)
    call = served.fetch("00000002.history", "-p", "0", host="gate")
    assert call.status == 2
    assert "skipped" in call.stderr


def test_promotion_that_has_given_up(
    served: Standby, angus: Primary, network: Network, barman: BarmanHost, wal: Callable[[str], bytes]
) -> None:
    """Try nothing more for it; where it was none, go on as after any outage."""
    ssh_config = barman.reach_through(network.port)
    first, second = angus.segments[1:3]
    claim(served.data, os.getppid(), 3600)
    # Other connections than the first one bring everything.
    network.harm, network.harmed = Harm("silence", 3 * SEGMENT_SIZE // 2), 1
    assert served.fetch(first, *PLAIN, host="gate", ssh_config=ssh_config).status == 0
    call = served.start(second, *PLAIN, host="gate", ssh_config=ssh_config)
    time.sleep(1)
    (served.data / "promote").touch()
    time.sleep(0.5)
    (served.data / "promote").unlink()
    _, stderr = call.communicate(timeout=30)
    assert call.returncode == 2
    assert f"{second}: given up, because this server is to be promoted" in stderr
    a_minute_ago = time.time() - 60
    os.utime(served.data, (a_minute_ago, a_minute_ago))

    def is_delivered() -> bool:
        return served.fetch(second, *PLAIN, host="gate", ssh_config=ssh_config).status == 0

    wait_until(is_delivered, "the segment", step=1)
    assert served.delivered() == wal(second)


def test_promotion_while_catching_up(
    copy_of_base: Callable[..., Server], command: Callable[..., str], angus: Primary
) -> None:
    """Replay what the archive has before a promotion, as PostgreSQL would by itself."""
    chris = copy_of_base("chris", "standby.signal", restore_command=f"sleep 0.5; {command('ours')}")
    chris.start()
    assert rows(chris) < angus.rows
    chris.promote()
    assert rows(chris) == angus.rows


def test_promotion_during_outage(
    copy_of_base: Callable[..., Server], command: Callable[..., str], network: Network, angus: Primary, workdir: Path
) -> None:
    chris = copy_of_base("chris", "standby.signal", restore_command=recorded(command("ours", "-s", "10")))
    chris.start()
    wait_until(lambda: rows(chris) == angus.rows, "the last archived row", 120)
    network.harm = Harm("silence", 0)
    (link,) = [path for path in (workdir / "spool").iterdir() if path.is_symlink()]
    end_prefetch_process(link)
    wait_for_end_of_start(chris)
    before = len(calls(chris))
    started = time.monotonic()
    chris.promote()
    took = time.monotonic() - started
    assert took < 8, "the limit to connect is 10 s, and -s would come on top"
    assert rows(chris) == angus.rows
    later = calls(chris)[before:]
    assert len(later) > 2
    assert all(0 < int(status) <= 125 for status, *_ in later)
    assert "PostgreSQL asks whether timeline 2 exists, and goes on as if it did not" in chris.log()


def end_prefetch_process(link: Path) -> None:
    """End the prefetch process, as its idle limit would."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_it = os.readlink(path / "cwd") == str(link.resolve())
        except OSError:
            continue
        if is_it:
            os.kill(int(path.name), signal.SIGTERM)


def test_call_after_signal_file_removed(
    copy_of_base: Callable[..., Server],
    command: Callable[..., str],
    restore_command: Callable[..., str],
    angus: Primary,
) -> None:
    """Return no fatal status once PostgreSQL has removed the signal file.

    The server would stop, and start on the old timeline the next time.
    """
    lost = restore_command("--retry", "0", host="refused")
    server = copy_of_base(
        "pitr",
        "recovery.signal",
        restore_command=recorded(f"if [ -e recovery.signal ]; then {command('ours')}; else {lost}; fi"),
        recovery_target_name=RESTORE_POINT,
        recovery_target_action="promote",
    )
    server.start()
    wait_until(lambda: has_ended(server), "the end of recovery", 120)
    assert rows(server) == angus.rows_at_restore_point
    afterwards = [call for call in calls(server) if call[2] == "*.signal"]
    assert afterwards, "it still asks"
    assert all(0 < int(status) <= 125 for status, *_ in afterwards)
    assert server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())").startswith("00000002")
