"""Test faults on the Barman host: of Barman, its files and its gate."""

import bz2
import gzip
import lzma
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from walbasin.wal import protocol

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost, both_hosts, both_hosts_and_ways
from tests.support.disks import SmallDisk
from tests.support.network import Harm, Network
from tests.support.processes import IS_ROOT, ME, wait_until
from tests.support.standby import Standby

from .conftest import Primary

MIB = 1 << 20
# What is held up after some bytes must not be smaller on a busy machine.
PLAIN = ("--compress", "none")
Archive = Callable[..., str]


# --- Barman


@both_hosts
def test_barman_stopped(
    chris: Standby, angus: Primary, archive: Archive, barman: BarmanHost, wal: Callable[[str], bytes], host: str
) -> None:
    """Deliver WAL of a server that is marked as inactive, and is not archived."""
    in_wals, in_incoming = angus.segments[4:6]
    server = archive({in_wals: wal(in_wals)})
    (barman.home / server / "incoming" / in_incoming).write_bytes(wal(in_incoming))
    with (barman.folder / "barman.d" / f"{server}.conf").open("a") as file:
        file.write("active = false\n")
    for name in (in_wals, in_incoming):
        assert chris.fetch(name, "-p", "2", host=host, server=server).status == 0
        assert chris.delivered() == wal(name)


@pytest.fixture
def full_host(workdir: Path) -> Iterator[BarmanHost]:
    """Run a Barman host on a small disk."""
    with SmallDisk(workdir / "disk", 64 * MIB) as disk:
        disk.folder.chmod(0o755)
        host = BarmanHost(disk.folder / "barman")
        host.start()
        yield host
        host.end()


@pytest.mark.skipif(not IS_ROOT, reason="only root may mount a filesystem")
@both_hosts_and_ways("2")
def test_barman_disk_full(
    chris: Standby,
    full_host: BarmanHost,
    angus: Primary,
    wal: Callable[[str], bytes],
    host: str,
    jobs: str,
) -> None:
    """Deliver WAL although Barman cannot write its log."""
    first, second, missing = angus.segments[4:7]
    full_host.add_server("angus")
    for name in (first, second):
        full_host.put("angus", name, wal(name))
    full_host.requests()
    chris.barman = full_host
    with (full_host.folder / "filling").open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    for name in (first, second):
        call = chris.fetch(name, "-p", jobs, host=host)
        assert call.status == 0, call.stderr
        assert chris.delivered() == wal(name)
    call = chris.fetch(missing, "-p", jobs, host=host)
    assert (call.status, "not in the archive" in call.stderr) == (1, True)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@both_hosts
def test_primary_silent(
    served: Standby,
    angus: Primary,
    barman: BarmanHost,
    wal: Callable[[str], bytes],
    name: str,
    silent_port: int,
    host: str,
) -> None:
    """Read WAL from Barman's folders, although Barman itself waits for the primary."""
    first, second = angus.segments[4:6]
    barman.add_server(name, port=silent_port)
    for each in (first, second):
        barman.put(name, each, wal(each))
    started = time.monotonic()
    for each in (first, second):
        assert served.fetch(each, "-p", "2", host=host, server=name).status == 0
        assert served.delivered() == wal(each)
    assert time.monotonic() - started < 20, "ssh would wait for it for ever"
    # The counter-proof: Barman itself waits.
    ssh: list[str | Path] = ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "stock"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([*ssh, f"barman show-servers {name}"], stdin=subprocess.DEVNULL, timeout=6, check=True)


# --- The archive's files


HEADER = {
    "magic": 1,
    "flags": 2,
    "timeline": 5,
    "address": 12,
    "system identifier": 24,
    "segment size": 34,
    "block size": 37,
}


@pytest.mark.parametrize(
    ("host", "field"),
    [
        *(("gate", field) for field in HEADER),
        ("stock", "address"),
        *(pytest.param("stock", field, marks=pytest.mark.matrix) for field in HEADER if field != "address"),
    ],
)
def test_flipped_header_bit(
    chris: Standby, angus: Primary, archive: Archive, wal: Callable[[str], bytes], host: str, field: str
) -> None:
    before, damaged = angus.segments[4:6]
    content = bytearray(wal(damaged))
    content[HEADER[field]] ^= 0x40
    server = archive({before: wal(before), damaged: bytes(content)})
    assert chris.fetch(before, "-p", "2", host=host, server=server).status == 0
    call = chris.fetch(damaged, "-p", "2", host=host, server=server)
    assert (call.status, len(call.lines)) == (3, 1)
    assert f"{damaged}: what came from {host} was refused" in call.stderr
    assert chris.spooled() == []
    assert chris.delivered() == wal(before), "nothing else was delivered"


@both_hosts_and_ways("2")
def test_half_written_file(
    chris: Standby,
    angus: Primary,
    archive: Archive,
    barman: BarmanHost,
    wal: Callable[[str], bytes],
    host: str,
    jobs: str,
) -> None:
    """Refuse the part that a plain cp as archive_command has written so far."""
    name = angus.segments[4]
    server = archive({})
    content = wal(name)

    with (barman.home / server / "incoming" / name).open("wb", buffering=0) as file:
        file.write(content[: 8 * MIB])
        call = chris.fetch(name, "-p", jobs, host=host, server=server)
        assert (call.status, len(call.lines)) == (3, 1)
        assert f"{name}: what came from {host} was refused: 8388608 bytes" in call.stderr

        def go_on() -> None:
            for start in range(8 * MIB, 16 * MIB, MIB):
                file.write(content[start : start + MIB])
                time.sleep(0.2)

        writer = threading.Thread(target=go_on)
        writer.start()
        while call.status == 3:
            call = chris.fetch(name, "-p", jobs, host=host, server=server)
        writer.join()
    assert call.status == 0
    assert chris.delivered() == content


@both_hosts
def test_file_truncated_during_fetch(
    served: Standby, angus: Primary, archive: Archive, barman: BarmanHost, wal: Callable[[str], bytes], host: str
) -> None:
    name = angus.segments[4]
    server = archive({name: wal(name)})
    with Network(barman.port) as network:
        network.harm = Harm("silence", MIB)
        ssh_config = barman.reach_through(network.port)
        call = served.start(name, "-p", "2", *PLAIN, host=host, server=server, ssh_config=ssh_config)
        wait_until(lambda: any(path.stat().st_size > MIB // 2 for path in served.spool.rglob("*.unfinished")), "a part")
        with barman.file(server, name).open("r+b") as file:
            file.truncate(8 * MIB)
        network.harm = None
        _, stderr = call.communicate(timeout=60)
    assert call.returncode in (2, 3)
    assert name in stderr
    assert served.pg_wal() == []


@both_hosts_and_ways("2")
def test_encrypted_file(
    chris: Standby, angus: Primary, archive: Archive, wal: Callable[[str], bytes], workdir: Path, host: str, jobs: str
) -> None:
    """Report an error for a file that Barman cannot decrypt.

    "Not in the archive" would end a point-in-time recovery there.
    """
    name = angus.segments[4]
    home = workdir / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--batch", "--homedir", str(home), "--pinentry-mode", "loopback", "--passphrase", "secret"]
    shutil.chown(home, ME)
    encrypted = subprocess.run([*gpg, "--symmetric"], input=wal(name), capture_output=True, check=True).stdout
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)
    server = archive({name: encrypted})
    call = chris.fetch(name, "-p", jobs, host=host, server=server)
    assert call.status in (2, 3)
    assert len(call.lines) == 1
    assert name in call.stderr
    assert chris.pg_wal() == []
    chris.signal("recovery.signal")
    (chris.data / "standby.signal").unlink()
    assert chris.fetch(name, "-p", jobs, "--retry", "0", host=host, server=server).status == 200


# --- The gate


@pytest.fixture
def newer_gate(barman: BarmanHost) -> Iterator[None]:
    """Have the gate speak another version of the protocol."""
    module = barman.folder / "lib" / "walbasin" / "wal" / "protocol.py"
    text = module.read_text()
    assert 'PROTOCOL = "1"' in text
    module.write_text(text.replace('PROTOCOL = "1"', 'PROTOCOL = "2"'))
    yield
    module.write_text(text)


def test_gate_of_another_version(
    served: Standby, angus: Primary, barman: BarmanHost, wal: Callable[[str], bytes], newer_gate: None
) -> None:
    """Fetch without the gate, so that one side can be updated before the other."""
    output = ""
    for name in angus.segments[4:7]:
        call = served.fetch(name, "-p", "2", host="gate")
        assert call.status == 0, call.stderr
        assert served.delivered() == wal(name)
        output += call.stderr
    assert output.count("\n") == 1
    assert "no gate answers on gate" in output
    assert "protocol" in output


# --- A file that moves


def test_file_moved_by_archiver(barman: BarmanHost, archive: Archive, angus: Primary) -> None:
    """Find a file that moves from incoming/ to wals/ at any moment of the search."""
    chance = random.Random(1)
    server = archive({})
    name = angus.segments[4]
    content = wal_builder.build_header()
    incoming = barman.home / server / "incoming" / name
    wals = barman.home / server / "wals" / name[:16] / name
    wals.parent.mkdir()
    ssh: list[str | Path] = ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "-T", "gate"]
    line = protocol.opening_line(protocol.Opening(server, ()))
    process = subprocess.Popen([*ssh, line], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == protocol.GREETING + b"\n"
    expected = protocol.frame(protocol.DATA, content) + protocol.frame(protocol.END)
    try:
        for _ in range(1500):
            incoming.write_bytes(content)
            wals.unlink(missing_ok=True)
            process.stdin.write(protocol.request_line(name))
            process.stdin.flush()
            until = time.perf_counter() + chance.uniform(0, 0.0015)
            while time.perf_counter() < until:
                pass
            incoming.rename(wals)
            kind = process.stdout.read(1)
            assert kind == protocol.DATA
            assert kind + process.stdout.read(len(expected) - 1) == expected
    finally:
        process.kill()
        process.communicate()


@both_hosts_and_ways("4")
def test_several_streams(
    chris: Standby, angus: Primary, archive: Archive, wal: Callable[[str], bytes], host: str, jobs: str
) -> None:
    """Deliver what pbzip2, bgzip or `cat` has written, and refuse half of it."""
    names = angus.segments[4:8]
    store: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, gzip.compress]
    zeros = bytes(64 if jobs != "0" else 0)  # Barman itself, which decompresses for -p 0, takes none behind xz
    stored = {
        name: b"".join(compress(wal(name)[start : start + MIB]) for start in range(0, 16 * MIB, MIB)) + zeros
        for name, compress in zip(names, store, strict=True)
    }
    whole, cut = names[:3], names[3]
    stored[cut] = stored[cut][: -(64 + 100)]
    server = archive(stored)
    for name in whole:
        call = chris.fetch(name, "-p", jobs, host=host, server=server)
        assert call.status == 0, call.stderr
        assert chris.delivered() == wal(name)
    call = chris.fetch(cut, "-p", jobs, host=host, server=server)
    assert call.status in (2, 3), call.stderr
