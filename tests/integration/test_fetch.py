"""Call the fetcher as PostgreSQL does, against a real sshd and a real Barman."""

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost, both_hosts, install
from tests.support.postgres import SEGMENT_SIZE
from tests.support.processes import ME, give, start, wait_until
from tests.support.standby import DESTINATION, Standby

from .conftest import Primary


def test_built_headers(angus: Primary, wal: Callable[[str], bytes]) -> None:
    for name in (angus.segments[0], angus.segments[-1]):
        made = wal_builder.build_segment(name, angus.system_identifier, SEGMENT_SIZE)[:40]
        real = wal(name)[:40]
        # Skip bytes 2, 3 and 16 to 19: they tell of a record that goes on from the page
        # before. Skip 20 to 23: padding.
        assert real[:2] in [wal_builder.number(magic, 2) for magic in wal_builder.MAGIC.values()]
        assert real[4:16] == made[4:16]
        assert real[24:] == made[24:]


# --- Files in the archive


@both_hosts
def test_classic_options(chris: Standby, angus: Primary, wal: Callable[[str], bytes], host: str) -> None:
    first, second, third, *_ = angus.segments[3:]
    call = chris.fetch(first, "-p", "3", "-s", "10", host=host)
    assert (call.status, call.stdout) == (0, "")
    assert ("no gate answers on stock" in call.stderr) == (host == "stock")
    assert len(call.lines) == (host == "stock")
    assert chris.pg_wal() == ["RECOVERYXLOG"]
    assert chris.delivered() == wal(first)
    chris.wait_for_spooled(second, third)
    for later in (second, third):
        call = chris.fetch(later, "-p", "3", "-s", "10", host=host, ssh_config="unplugged")
        assert (call.status, call.stdout, call.stderr) == (0, "", "")
        assert chris.delivered() == wal(later)


def test_delivered_file_mode(chris: Standby, angus: Primary) -> None:
    assert chris.fetch(angus.segments[3]).status == 0
    status = (chris.data / DESTINATION).stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_uid == chris.data.stat().st_uid


def test_parallel_connections(chris: Standby, angus: Primary, barman: BarmanHost) -> None:
    # Hold one connection: the others deliver. With -z the gate calls Barman, which can
    # be held.
    first, hanging, *others = angus.segments[3:8]
    barman.hold(hanging)
    process = chris.start(first, "-p", "5", "-z")
    wait_until(lambda: set(others) <= set(chris.spooled()), "the other segments")
    assert chris.delivered()
    assert hanging not in chris.spooled()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@both_hosts
def test_history_file(chris: Standby, archive: Callable[..., str], host: str) -> None:
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
def test_stored_compression(
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
def test_transfer_compression(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], option: str, host: str
) -> None:
    assert chris.fetch(angus.segments[4], option, "-p", "2", host=host).status == 0
    assert chris.delivered() == wal(angus.segments[4])
    chris.wait_for_spooled(angus.segments[5])
    assert chris.fetch(angus.segments[5], host=host, ssh_config="unplugged").status == 0
    assert chris.delivered() == wal(angus.segments[5])


def test_damaged_compressed_file(chris: Standby, angus: Primary, archive: Callable[..., str]) -> None:
    server = archive({angus.segments[4]: b"\x28\xb5\x2f\xfd" + bytes(100)})
    call = chris.fetch(angus.segments[4], server=server)
    assert call.status in (2, 3)
    assert chris.pg_wal() == []


def test_partial_segment(
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


def test_pg_rewind_destination(chris: Standby, angus: Primary, wal: Callable[[str], bytes], workdir: Path) -> None:
    name = angus.segments[4]
    call = chris.fetch(name, "-p", "3", destination=chris.data / "pg_wal" / name, cwd=workdir)
    assert (call.status, call.stderr) == (0, "")
    assert chris.delivered(f"pg_wal/{name}") == wal(name)
    assert chris.spooled() == []


def test_call_by_hand(chris: Standby, angus: Primary, wal: Callable[[str], bytes], workdir: Path) -> None:
    call = chris.fetch(angus.segments[4], "-p", "3", destination=workdir / "segment", cwd=workdir)
    assert call.status == 0
    assert "origin not checked" in call.stderr
    assert (workdir / "segment").read_bytes() == wal(angus.segments[4])
    assert chris.spooled() == []


def pythons() -> list[str]:
    """Return the installed Pythons from 3.8 on, with those of pyenv."""
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
def test_python_version(
    chris: Standby, angus: Primary, wal: Callable[[str], bytes], workdir: Path, python: str
) -> None:
    # Run as our own user: postgres may not be able to reach that interpreter.
    chris.fetcher = install(workdir / "lib")
    (workdir / "lib" / "interpreter").write_text(f"{python}\n")
    call = chris.fetch(angus.segments[4], "-p", "2", "--keep-compression", host="gate", as_postgres=False)
    assert (call.status, call.stderr) == (0, "")
    assert chris.delivered() == wal(angus.segments[4])
    chris.wait_for_spooled(angus.segments[5])
    call = chris.fetch(angus.segments[5], "-p", "2", ssh_config="unplugged", host="gate", as_postgres=False)
    assert (call.status, call.stderr) == (0, ""), "from the spool"


def test_link_to_checkout(workdir: Path) -> None:
    (workdir / "barman-wal-restore").symlink_to(Path(__file__).parents[2] / "files" / "barman-wal-restore")
    for words in (["-V"], ["-h"]):
        done = subprocess.run([workdir / "barman-wal-restore", *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


# --- Usage and destinations


@pytest.mark.parametrize("fault", ["not writable", "missing", "a folder"])
@pytest.mark.parametrize(("signal_file", "status"), [("standby.signal", 4), ("recovery.signal", 200)])
def test_destination_not_writable(
    make_standby: Callable[..., Standby], angus: Primary, fault: str, signal_file: str, status: int
) -> None:
    standby = make_standby(signal_file)
    pg_wal = standby.data / "pg_wal"
    if fault == "not writable":
        pg_wal.chmod(0o500)
    elif fault == "missing":
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


# --- The interpreter


@pytest.mark.parametrize("interpreter", ["/no/such/python3", "/bin/false", "/bin/true", "/etc/passwd"])
@pytest.mark.parametrize(("signal_file", "status"), [("standby.signal", 2), ("recovery.signal", 200), ("none", 2)])
def test_broken_interpreter(
    make_standby: Callable[..., Standby], workdir: Path, interpreter: str, signal_file: str, status: int
) -> None:
    standby = make_standby(signal_file)
    standby.fetcher = install(workdir / "lib")
    (workdir / "lib" / "interpreter").write_text(f"{interpreter}\n")
    call = standby.fetch("000000010000000000000004")
    assert call.status == status
    assert interpreter in call.stderr


@pytest.mark.parametrize(("signal_file", "status"), [("standby.signal", 2), ("recovery.signal", 200)])
def test_interpreter_wrapper(
    make_standby: Callable[..., Standby],
    angus: Primary,
    wal: Callable[[str], bytes],
    workdir: Path,
    signal_file: str,
    status: int,
) -> None:
    standby = make_standby(signal_file)
    standby.fetcher = install(workdir / "lib")
    wrapper = workdir / "python3"
    wrapper.write_text('#!/bin/sh\npython3 "$@"\nexit $?\n')
    wrapper.chmod(0o755)
    (workdir / "lib" / "interpreter").write_text(f"{wrapper}\n")
    assert standby.fetch(angus.segments[4]).status == status
    assert standby.pg_wal() == []
    (standby.data / "pg_wal" / angus.segments[4]).write_bytes(wal(angus.segments[4]))
    give(standby.data)
    assert standby.fetch("test", "-t", destination="pg_wal/test").status == status


# Read settings as PostgreSQL does: names in any case, its words for a boolean
# (guc-file.l, parse_bool).
@pytest.mark.parametrize(
    ("line", "words", "status"),
    [
        ("standby_mode = on", [], 2),
        ("\tSTANDBY_MODE 'true'", [], 2),
        ("standby_mode=yes", [], 2),
        ("standby_mode = off", [], 200),
        ("# standby_mode = on", [], 200),
        ("standby_mode = off", ["--mode", "standby"], 2),
        ("standby_mode = on", ["--mode=recovery"], 200),
    ],
)
def test_mode_without_python(
    make_standby: Callable[..., Standby], workdir: Path, line: str, words: list[str], status: int
) -> None:
    standby = make_standby("recovery.conf", version=11)
    (standby.data / "recovery.conf").write_text(f"{line}\n")
    standby.fetcher = install(workdir / "lib")
    (workdir / "lib" / "interpreter").write_text("/bin/false\n")
    assert standby.fetch("000000010000000000000004", *words).status == status


def test_broken_package(chris: Standby, workdir: Path) -> None:
    chris.fetcher = install(workdir / "lib")
    (workdir / "lib" / "walbasin" / "policy.py").write_text("this is no Python\n")
    assert chris.fetch("000000010000000000000004").status == 2


def test_python_variables_ignored(chris: Standby, angus: Primary) -> None:
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
