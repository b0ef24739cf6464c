"""The fetcher, called as PostgreSQL calls it, against a real sshd and a real Barman."""

import bz2
import contextlib
import gzip
import lzma
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import by_hand

from .account import ME, give, start, wait_until
from .barman_host import BarmanHost, install
from .conftest import Primary
from .standby import DESTINATION, Standby

both_hosts = pytest.mark.parametrize("host", ["gate", "stock"])
SIZE = 16 * by_hand.MIB


def is_nothing_there(standby: Standby) -> bool:
    return standby.pg_wal() == []


def test_headers_made_by_hand_are_those_of_a_real_server(angus: Primary, wal: Callable[[str], bytes]) -> None:
    for name in (angus.segments[0], angus.segments[-1]):
        made = by_hand.segment(name, angus.system_identifier, SIZE)[:40]
        real = wal(name)[:40]
        # The low bit of the info word says that a record goes on from the page before; the rest of it tells how long.
        assert real[:2] in [by_hand.number(magic, 2) for magic in by_hand.MAGIC.values()]
        assert real[4:16] == made[4:16]
        assert real[24:] == made[24:]


# --- what is there


@both_hosts
def test_the_classic_line_delivers(chris: Standby, angus: Primary, wal: Callable[[str], bytes], host: str) -> None:
    first, second, third, *_ = angus.segments[3:]
    call = chris.fetch(first, "-p", "3", "-s", "10", host=host)
    assert (call.status, call.stdout) == (0, "")
    assert ("no gate answers on stock" in call.stderr) == (host == "stock")
    assert len(call.lines) == (host == "stock")
    assert chris.pg_wal() == ["RECOVERYXLOG"]
    assert chris.delivered() == wal(first)
    chris.wait_for_spooled(second, third)
    for following in (second, third):
        call = chris.fetch(following, "-p", "3", "-s", "10", host=host, ssh_config="unplugged")
        assert (call.status, call.stdout, call.stderr) == (0, "", "")
        assert chris.delivered() == wal(following)


def test_what_is_delivered_is_private_and_belongs_to_the_caller(chris: Standby, angus: Primary) -> None:
    assert chris.fetch(angus.segments[3]).status == 0
    status = (chris.data / DESTINATION).stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_uid == chris.data.stat().st_uid


def test_several_sessions_fetch_side_by_side(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    # One of them hangs; the others come all the same, and so does the requested one. -z, because that is Barman's work.
    first, hanging, *others = angus.segments[3:8]
    barman.hold(hanging)
    process = chris.start(first, "-p", "5", "-z")
    wait_until(lambda: set(others) <= set(chris.spooled()), "the other segments")
    assert chris.delivered()
    assert hanging not in chris.spooled()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@both_hosts
def test_a_history_is_delivered(chris: Standby, archive: Callable[..., str], host: str) -> None:
    text = b"1\t0/5000148\tno recovery target specified\n"
    server = archive({"00000002.history": text})
    call = chris.fetch("00000002.history", "-p", "3", host=host, server=server, destination="pg_wal/RECOVERYHISTORY")
    assert (call.status, len(call.lines)) == (0, host == "stock")
    assert chris.delivered("pg_wal/RECOVERYHISTORY") == text


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: piped("zstd", data),
    "lz4": lambda data: piped("lz4", data),
}


def piped(program: str, data: bytes) -> bytes:
    return subprocess.run([program, "-1", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("options", [[], ["--keep-compression"]], ids=["as is", "keep"])
@pytest.mark.parametrize("form", COMPRESS)
def test_stored_compression_is_undone(
    chris: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    form: str,
    options: list[str],
) -> None:
    name = angus.segments[4]
    server = archive({name: COMPRESS[form](wal(name))})
    call = chris.fetch(name, *options, server=server)
    assert (call.status, call.stderr) == (0, "")
    assert chris.delivered() == wal(name)
    kept = [line for line in chris.barman.requests() if "--keep-compression" in line]
    assert bool(kept) == bool(options)


@pytest.mark.parametrize("option", ["-z", "-j"])
@both_hosts
def test_compression_on_the_way_is_undone(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], option: str, host: str
) -> None:
    assert chris.fetch(angus.segments[4], option, "-p", "2", host=host).status == 0
    assert chris.delivered() == wal(angus.segments[4])
    chris.wait_for_spooled(angus.segments[5])
    assert chris.fetch(angus.segments[5], host=host, ssh_config="unplugged").status == 0
    assert chris.delivered() == wal(angus.segments[5])


def test_what_barman_itself_cannot_undo_is_not_taken_for_missing(
    chris: Standby, angus: Primary, archive: Callable[..., str]
) -> None:
    server = archive({angus.segments[4]: b"\x28\xb5\x2f\xfd" + bytes(100)})
    call = chris.fetch(angus.segments[4], server=server)
    assert call.status in (2, 3)
    assert is_nothing_there(chris)


def test_the_last_partial_is_a_last_resort(
    chris: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    host = "gate"
    whole, partial = angus.segments[4:6]
    server = archive({whole: wal(whole)})
    (chris.barman.home / server / "streaming" / f"{partial}.partial").write_bytes(wal(partial))
    assert chris.fetch(partial, "-p", "2", host=host, server=server).status == 1
    assert chris.fetch(whole, "-P", "-p", "2", host=host, server=server).status == 0
    assert chris.delivered() == wal(whole)
    assert chris.spooled() == []
    assert chris.fetch(partial, "-P", "-p", "2", host=host, server=server).status == 0
    assert chris.delivered() == wal(partial)


def test_pg_rewinds_destination_is_served_without_prefetch(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], place: Path
) -> None:
    name = angus.segments[4]
    call = chris.fetch(name, "-p", "3", destination=chris.data / "pg_wal" / name, cwd=place)
    assert (call.status, call.stderr) == (0, "")
    assert chris.delivered(f"pg_wal/{name}") == wal(name)
    assert chris.spooled() == []


def test_called_by_hand_it_says_that_the_origin_is_not_checked(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], place: Path
) -> None:
    call = chris.fetch(angus.segments[4], "-p", "3", destination=place / "segment", cwd=place)
    assert call.status == 0
    assert "origin not checked" in call.stderr
    assert (place / "segment").read_bytes() == wal(angus.segments[4])
    assert chris.spooled() == []


def pythons() -> list[str]:
    """Every Python from 3.8 on that is installed; those of a version manager need their own path."""
    found = []
    for minor in range(8, 15):
        program = f"python3.{minor}"
        candidates = [shutil.which(program), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{program}"))]
        for candidate in filter(None, candidates):
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                subprocess.run([candidate, "-c", ""], check=True, stderr=subprocess.DEVNULL)
                found.append(candidate)
                break
    return found


@pytest.mark.parametrize("python", pythons())
def test_it_runs_under_every_python_from_3_8_on(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], place: Path, python: str
) -> None:
    # As ourselves, because postgres may not be able to reach that interpreter.
    chris.fetcher = install(place / "lib")
    (place / "lib" / "interpreter").write_text(f"{python}\n")
    call = chris.fetch(angus.segments[4], "-p", "2", "--keep-compression", host="gate", as_postgres=False)
    assert (call.status, call.stderr) == (0, "")
    assert chris.delivered() == wal(angus.segments[4])
    chris.wait_for_spooled(angus.segments[5])
    call = chris.fetch(angus.segments[5], "-p", "2", ssh_config="unplugged", host="gate", as_postgres=False)
    assert (call.status, call.stderr) == (0, ""), "from the spool"


def test_it_runs_from_a_checkout_and_through_a_link(place: Path) -> None:
    (place / "barman-wal-restore").symlink_to(Path(__file__).parents[2] / "files" / "barman-wal-restore")
    for words in (["-V"], ["-h"]):
        done = subprocess.run([place / "barman-wal-restore", *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


# --- what is not there, and what cannot be found out


@both_hosts
def test_a_missing_segment_is_one_line_and_a_missing_history_is_silent(
    chris: Standby, angus: Primary, host: str
) -> None:
    call = chris.fetch("0000000100000000000000F0", "-p", "3", "-s", "30", host=host)
    assert (call.status, call.stdout, len(call.lines)) == (1, "", 1)
    assert "0000000100000000000000F0" in call.stderr
    assert "not in the archive" in call.stderr
    call = chris.fetch("00000002.history", "-s", "30", host=host, destination="pg_wal/RECOVERYHISTORY")
    assert (call.status, call.stdout, call.stderr) == (1, "", "")
    assert is_nothing_there(chris)
    assert call.seconds < 20, "-s is for errors"


def test_a_no_is_always_fresh(chris: Standby, angus: Primary, archive: Callable[..., str], barman: BarmanHost) -> None:
    name = angus.segments[4]
    server = archive({})
    assert chris.fetch(name, "-p", "3", server=server).status == 1
    barman.put(server, name, barman.file("angus", name).read_bytes())
    assert chris.fetch(name, "-p", "3", server=server).status == 0


@pytest.mark.parametrize(
    ("host", "server", "cause"),
    [
        ("stock", "nosuch", "nosuch"),
        ("gate", "nosuch", "does not fetch WAL of server 'nosuch'"),
        ("refused", "angus", "Connection refused"),
        ("changed", "angus", "Host key verification failed"),
        ("stranger", "angus", "Permission denied"),
        ("no.such.host.invalid", "angus", "no.such.host.invalid"),
    ],
)
@pytest.mark.parametrize("signal_file", ["standby.signal", "recovery.signal"])
def test_what_cannot_be_found_out_is_no_no(
    make_standby: Callable[..., Standby], angus: Primary, host: str, server: str, cause: str, signal_file: str
) -> None:
    standby = make_standby(signal_file)
    call = standby.fetch(angus.segments[4], "-p", "3", "--retry", "0", host=host, server=server)
    assert call.status == (2 if signal_file == "standby.signal" else 200)
    assert call.stdout == ""
    assert len(call.lines) == 1
    assert angus.segments[4] in call.stderr
    assert cause in call.stderr
    assert is_nothing_there(standby)


@pytest.mark.parametrize("status", [1, 2, 101, 126, 127, 143, 200, 255])
def test_no_foreign_status_is_passed_through(chris: Standby, angus: Primary, barman: BarmanHost, status: int) -> None:
    barman.lie("", status)
    assert chris.fetch(angus.segments[4], host="liar").status == 2
    assert is_nothing_there(chris)


def test_a_host_without_barman_is_named(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.lie("", 127)
    assert "barman is not in the PATH" in chris.fetch(angus.segments[4], host="liar").stderr


def test_a_login_message_is_not_taken_for_wal(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.lie("Welcome to the Barman host!\n", 0)
    assert chris.fetch(angus.segments[4], host="liar").status == 3
    assert chris.fetch("00000002.history", host="liar", destination="pg_wal/RECOVERYHISTORY").status == 3
    assert is_nothing_there(chris)


@pytest.fixture
def black_hole(chris: Standby) -> Iterator[Path]:
    """An ssh_config for a host that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        file = chris.folder / "black_hole"
        file.write_text(f"Host *\n HostName 127.0.0.1\n Port {port}\n")
        yield give(file)


def test_a_silent_host_is_given_up_and_then_left_alone(chris: Standby, angus: Primary, black_hole: Path) -> None:
    call = chris.fetch(angus.segments[4], "-p", "3", ssh_config=str(black_hole))
    assert call.status == 2
    assert 9 < call.seconds < 20
    # A promotion asks four times more; none of these waits, or sleeps.
    for name in (angus.segments[4], "00000002.history"):
        call = chris.fetch(name, "-p", "3", "-s", "60", ssh_config=str(black_hole))
        assert call.status == 2
        assert call.seconds < 9, "the limit to connect is 10 s"
    assert "timeline 2 may be taken already" in call.stderr


def test_the_outage_is_over_after_a_while(chris: Standby, angus: Primary) -> None:
    assert chris.fetch(angus.segments[4], ssh_config="unplugged").status == 2
    assert chris.fetch(angus.segments[4]).status == 2, "the outage is remembered"
    (note,) = chris.spool.rglob("outage")
    note.write_text(str(time.monotonic() - 16))
    assert chris.fetch(angus.segments[4]).status == 0
    assert chris.spooled() == []


def test_minus_s_sleeps_after_an_error_until_promotion_is_asked_for(chris: Standby, angus: Primary) -> None:
    call = chris.fetch(angus.segments[4], "-s", "2", host="refused")
    assert call.status == 2
    assert call.seconds >= 2
    for file in chris.spool.rglob("outage"):
        file.unlink()
    process = chris.start(angus.segments[4], "-s", "60", host="refused")
    time.sleep(2)
    assert process.poll() is None
    chris.signal("promote")
    process.communicate(timeout=30)
    assert process.returncode == 2


# --- what must not be delivered


def wrong(kind: str, good: bytes, name: str, system_identifier: int) -> bytes:
    make: dict[str, Callable[[], bytes]] = {
        "of another cluster": lambda: by_hand.segment(name, system_identifier ^ 1, SIZE),
        "of a newer timeline": lambda: by_hand.segment(name, system_identifier, SIZE, timeline=2),
        "under another name": lambda: by_hand.segment("0000000100000000000000EE", system_identifier, SIZE),
        "of another size": lambda: by_hand.segment(name, system_identifier, by_hand.MIB)[:-1],
        "truncated": lambda: good[: SIZE // 2],
        "too long": lambda: good + b"x",
        "empty": lambda: b"",
        "zeros": lambda: bytes(SIZE),
        "truncated gzip": lambda: gzip.compress(good, 1)[:-100],
    }
    return make[kind]()


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("of another cluster", "another cluster"),
        ("of a newer timeline", "timeline 2, newer"),
        ("under another name", "another segment"),
        ("of another size", "bytes where a segment has"),
        ("truncated", "8388608 bytes where a segment has 16777216"),
        ("too long", "16777217 bytes"),
        ("empty", "0 bytes"),
        ("zeros", "WAL page header"),
        ("truncated gzip", "compress"),
    ],
)
def test_a_wrong_segment_is_refused(
    chris: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    kind: str,
    cause: str,
) -> None:
    name = angus.segments[4]
    server = archive({name: wrong(kind, wal(name), name, angus.system_identifier)})
    options = ["--keep-compression"] if "gzip" in kind else []
    call = chris.fetch(name, *options, server=server)
    assert (call.status, len(call.lines)) == (3, 1)
    assert name in call.stderr
    assert cause in call.stderr
    assert is_nothing_there(chris)


@pytest.mark.parametrize("text", [b"", b"<html>\n", b"5\t0/100\tfrom the future\n"])
def test_a_wrong_history_is_refused(chris: Standby, archive: Callable[..., str], text: bytes) -> None:
    server = archive({"00000002.history": text})
    call = chris.fetch("00000002.history", server=server, destination="pg_wal/RECOVERYHISTORY")
    assert call.status == 3
    assert is_nothing_there(chris)


def test_a_wrong_segment_does_not_get_into_the_spool(
    chris: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    good, foreign = angus.segments[4:6]
    server = archive({good: wal(good), foreign: by_hand.segment(foreign, angus.system_identifier ^ 1, SIZE)})
    assert chris.fetch(good, "-p", "3", server=server, host="gate").status == 0
    call = chris.fetch(foreign, "-p", "3", server=server, host="gate")
    assert call.status == 3
    assert "another cluster" in call.stderr
    assert chris.spooled() == []


def test_another_clusters_spool_is_not_touched(
    chris: Standby, angus: Primary, fetcher: Path, place: Path, barman: BarmanHost
) -> None:
    assert chris.fetch(angus.segments[4], "-p", "2").status == 0
    chris.wait_for_spooled(angus.segments[5])
    copy = by_hand.data_directory(place / "copy", 15, angus.system_identifier, "standby.signal")
    other = Standby(place, give(copy), fetcher, barman)
    assert other.spool == chris.spool
    assert other.fetch(angus.segments[5], ssh_config="unplugged").status == 2
    assert chris.fetch(angus.segments[5], ssh_config="unplugged").status == 0


@pytest.mark.parametrize("trouble", ["a link", "open to others", "a file", "not writable", "of somebody else"])
def test_a_spool_in_trouble_means_a_direct_fetch(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], trouble: str
) -> None:
    if trouble == "a link":
        (chris.folder / "elsewhere").mkdir(mode=0o700)
        chris.spool.symlink_to(give(chris.folder / "elsewhere"))
    elif trouble == "open to others":
        chris.spool.mkdir()
        give(chris.spool).chmod(0o777)
    elif trouble == "a file":
        chris.spool.touch()
    elif trouble == "not writable":
        chris.spool.mkdir()
        give(chris.spool).chmod(0o500)
    else:
        chris.spool = Path("/proc/1")
    call = chris.fetch(angus.segments[4], "-p", "3")
    assert call.status == 0
    assert len(call.lines) == 1
    assert str(chris.spool) in call.stderr
    assert chris.delivered() == wal(angus.segments[4])


# --- usage, and destinations


@pytest.mark.parametrize("trouble", ["not writable", "missing", "a folder"])
@pytest.mark.parametrize(("signal_file", "status"), [("standby.signal", 4), ("recovery.signal", 200)])
def test_a_destination_that_cannot_be_written(
    make_standby: Callable[..., Standby], angus: Primary, trouble: str, signal_file: str, status: int
) -> None:
    standby = make_standby(signal_file)
    pg_wal = standby.data / "pg_wal"
    if trouble == "not writable":
        pg_wal.chmod(0o500)
    elif trouble == "missing":
        pg_wal.rename(standby.data / "elsewhere")
    else:
        (pg_wal / "RECOVERYXLOG").mkdir()
        (pg_wal / "RECOVERYXLOG" / "file").touch()
        give(pg_wal)
    call = standby.fetch(angus.segments[4], "-p", "3", host="gate")
    assert (call.status, len(call.lines)) == (status, 1)
    assert "cannot write pg_wal/RECOVERYXLOG" in call.stderr


@pytest.mark.parametrize(("signal_file", "status"), [("standby.signal", 4), ("recovery.signal", 200)])
@pytest.mark.parametrize("words", [["--no-such-option"], ["-p", "many"], ["-s", "-1"]])
def test_wrong_usage(make_standby: Callable[..., Standby], signal_file: str, status: int, words: list[str]) -> None:
    call = make_standby(signal_file).fetch("000000010000000000000001", *words)
    assert (call.status, len(call.lines)) == (status, 1)
    assert "barman-wal-restore -h" in call.stderr


# --- point-in-time recovery


def test_a_recovery_tries_again_and_then_stops_the_server(recovering: Standby, angus: Primary) -> None:
    call = recovering.fetch(angus.segments[4], "-p", "3", "-s", "60", "--retry", "2", host="refused")
    assert call.status == 200
    assert 2 <= call.seconds < 15
    assert "trying again in 1 s" in call.lines[0]
    assert "nothing is lost" in call.lines[-1]


def test_a_recovery_survives_a_lost_call(
    recovering: Standby, angus: Primary, barman: BarmanHost, wal: Callable[[str], bytes]
) -> None:
    barman.drop(angus.segments[4])
    call = recovering.fetch(angus.segments[4])
    assert call.status == 0
    assert "trying again" in call.stderr
    assert recovering.delivered() == wal(angus.segments[4])


def test_a_standby_is_told_of_a_lost_call_at_once(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    barman.drop(angus.segments[4])
    assert chris.fetch(angus.segments[4]).status == 2
    assert is_nothing_there(chris)


def test_a_lost_connection_is_made_good(
    chris: Standby, angus: Primary, barman: BarmanHost, wal: Callable[[str], bytes]
) -> None:
    barman.drop(angus.segments[4])
    assert chris.fetch(angus.segments[4], "-p", "2").status == 0
    assert not barman.dropping()
    assert chris.delivered() == wal(angus.segments[4])


def test_a_wrong_segment_does_not_end_a_recovery(
    recovering: Standby, angus: Primary, archive: Callable[..., str]
) -> None:
    server = archive({angus.segments[4]: by_hand.segment(angus.segments[4], angus.system_identifier ^ 1, SIZE)})
    assert recovering.fetch(angus.segments[4], "--retry", "1", server=server).status == 200


def test_a_hole_does_not_end_a_recovery(
    recovering: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    before, hole, _, after, end = angus.segments[4:9]
    server = archive({before: wal(before), after: wal(after)})
    call = recovering.fetch(hole, "--retry", "0", server=server, host="gate")
    assert call.status == 200
    assert f"a hole here: it holds {after}" in call.stderr
    call = recovering.fetch(end, "--retry", "0", server=server, host="gate")
    assert call.status == 1, "the archive ends here, and so does the recovery"
    assert recovering.fetch("00000002.history", server=server, host="gate").status == 1


def test_a_hole_is_harmless_on_a_standby(
    chris: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    server = archive({angus.segments[6]: wal(angus.segments[6])})
    assert chris.fetch(angus.segments[5], server=server).status == 1


@pytest.mark.parametrize("is_local", [True, False], ids=["history in pg_wal", "history in the archive"])
def test_a_timeline_does_not_begin_with_a_hole(
    make_standby: Callable[..., Standby], angus: Primary, archive: Callable[..., str], is_local: bool
) -> None:
    """Before 13 every segment is asked for on the newest timeline first, also those from before it began."""
    recovering = make_standby("recovery.signal", version=12)
    history = b"1\t0/6000148\tno recovery target specified\n"
    begin = "000000020000000000000006"
    server = archive({"00000002.history": history, begin: by_hand.segment(begin, angus.system_identifier, SIZE)})
    if is_local:
        (recovering.data / "pg_wal" / "00000002.history").write_bytes(history)
    assert recovering.fetch("000000020000000000000005", "--retry", "0", server=server).status == 1
    assert recovering.fetch(begin, "--retry", "0", server=server).status == 0


def test_before_12_recovery_conf_says_which_mode(make_standby: Callable[..., Standby], angus: Primary) -> None:
    standby = make_standby("recovery.conf", version=11)
    assert standby.fetch(angus.segments[4], "--retry", "0", host="refused").status == 200
    (standby.data / "recovery.conf").write_text("standby_mode = 'on'\n")
    assert standby.fetch(angus.segments[4], "--retry", "0", host="refused").status == 2


@pytest.mark.parametrize(("mode", "signal_file", "status"), [("standby", "recovery.signal", 2), ("recovery", "x", 200)])
def test_the_mode_can_be_forced(
    make_standby: Callable[..., Standby], angus: Primary, mode: str, signal_file: str, status: int
) -> None:
    standby = make_standby(signal_file)
    assert standby.fetch(angus.segments[4], "--mode", mode, "--retry", "0", host="refused").status == status


def test_without_a_signal_file_no_answer_is_fatal(make_standby: Callable[..., Standby], angus: Primary) -> None:
    """PostgreSQL removes it at the end of recovery, and then asks for a history once more."""
    standby = make_standby()
    call = standby.fetch("00000002.history", host="refused", destination="pg_wal/RECOVERYHISTORY")
    assert call.status == 2


# --- what else can go wrong


@pytest.mark.parametrize("interpreter", ["/no/such/python3", "/bin/false", "/bin/true", "/etc/passwd"])
@pytest.mark.parametrize(("signal_file", "status"), [("standby.signal", 2), ("recovery.signal", 200), ("none", 2)])
def test_a_broken_interpreter_is_no_answer(
    make_standby: Callable[..., Standby], place: Path, interpreter: str, signal_file: str, status: int
) -> None:
    standby = make_standby(signal_file)
    standby.fetcher = install(place / "lib")
    (place / "lib" / "interpreter").write_text(f"{interpreter}\n")
    call = standby.fetch("000000010000000000000004")
    assert call.status == status
    assert interpreter in call.stderr


def test_a_broken_package_is_no_answer(chris: Standby, place: Path) -> None:
    chris.fetcher = install(place / "lib")
    (place / "lib" / "walbasin" / "policy.py").write_text("this is no Python\n")
    assert chris.fetch("000000010000000000000004").status == 2


def test_no_shell_variable_of_python_gets_in_the_way(chris: Standby, angus: Primary) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent", "LC_ALL": "C"}
    process = start(
        [
            *(chris.fetcher, "--ssh-config", chris.barman.client / "ssh_config", "-U", ME, "--spool-dir", chris.spool),
            *("stock", "angus", angus.segments[4], DESTINATION),
        ],
        chris.data,
        env=environment,
    )
    process.communicate(timeout=60)
    assert process.returncode == 0


# --- -t


@pytest.mark.parametrize(("host", "kind"), [("gate", "barman-wal-gate"), ("stock", "no gate")])
def test_minus_t_tells_every_step(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], host: str, kind: str
) -> None:
    newest = angus.segments[5]
    (chris.data / "pg_wal" / newest).write_bytes(wal(newest))
    give(chris.data)
    call = chris.fetch("test", "-t", host=host, destination="pg_wal/test")
    assert (call.status, call.stderr) == (0, "")
    steps = [re.split(r"  +", line)[1] for line in call.stdout.splitlines()]
    assert steps == ["connection", "host key", "key", "server", "segment", "spool"]
    assert all(re.search(r"\d\.\d{3} s", line) for line in call.stdout.splitlines())
    assert kind in call.stdout
    assert f"{newest} fetched and verified: 16 MiB" in call.stdout
    assert chris.pg_wal() == [newest], "nothing is delivered"


def test_minus_t_goes_back_to_a_segment_that_is_archived(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes]
) -> None:
    archived, not_yet = angus.segments[-1], "0000000100000000000000F0"
    (chris.data / "pg_wal" / archived).write_bytes(wal(archived))
    (chris.data / "pg_wal" / not_yet).write_bytes(by_hand.segment(not_yet, angus.system_identifier, SIZE))
    give(chris.data)
    call = chris.fetch("test", "-t", destination="pg_wal/test")
    assert call.status == 0
    assert archived in call.stdout


@pytest.mark.parametrize(
    ("host", "server", "trouble", "cause"),
    [
        ("refused", "angus", "", "Connection refused"),
        ("changed", "angus", "", "Host key verification failed"),
        ("stranger", "angus", "", "Permission denied"),
        ("stock", "nosuch", "", "nosuch"),
        ("gate", "nosuch", "", "server 'nosuch'"),
        ("stock", "angus", "no segment", "no segment in pg_wal"),
        ("stock", "angus", "not archived", "0000000100000000000000F0 is there"),
        ("stock", "angus", "another cluster", "another cluster"),
        ("stock", "angus", "spool", "spool"),
    ],
)
def test_minus_t_names_the_cause(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], host: str, server: str, trouble: str, cause: str
) -> None:
    name = "0000000100000000000000F0" if trouble == "not archived" else angus.segments[5]
    if trouble == "not archived":
        (chris.data / "pg_wal" / name).write_bytes(by_hand.segment(name, angus.system_identifier, SIZE))
    elif trouble == "another cluster":
        control = chris.data / "global" / "pg_control"
        control.write_bytes(by_hand.number(by_hand.FOREIGN, 8) + bytes(8184))
    elif trouble != "no segment":
        (chris.data / "pg_wal" / name).write_bytes(wal(name))
    if trouble == "spool":
        chris.spool.touch()
    give(chris.data)
    asked = name if trouble == "another cluster" else "test"
    call = chris.fetch(asked, "-t", host=host, server=server, destination="pg_wal/test")
    assert call.status == 2
    assert cause in call.lines[-1]
