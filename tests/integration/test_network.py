"""Test faults of the network between ssh and sshd.

Refused connections are in test_miss.py, recoveries in test_outage.py.
"""

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost, both_hosts, both_hosts_and_ways
from tests.support.network import Harm, Network
from tests.support.processes import IS_ROOT, ME, POSTGRES, give, wait_until
from tests.support.standby import Standby

from .conftest import Primary

MIB = 1 << 20
# What is disturbed after some bytes must not be smaller on a busy machine.
PLAIN = ("--compress", "none")
# ssh has several messages for it; they depend on what it was doing.
CONNECTION_LOST = ("Connection reset by", "Broken pipe", "closed by remote host", "ended without a word")


@pytest.fixture
def ssh_config(barman: BarmanHost, network: Network) -> str:
    """Return an ssh_config that reaches the Barman host through the network."""
    return barman.reach_through(network.port)


# --- Reset in the middle of a segment


@both_hosts_and_ways("3")
def test_all_connections_reset(
    chris: Standby, angus: Primary, network: Network, ssh_config: str, host: str, jobs: str
) -> None:
    network.harm = Harm("reset", 4 * MIB)
    call = chris.fetch(angus.segments[4], "-p", jobs, *PLAIN, host=host, ssh_config=ssh_config)
    assert (call.status, len(call.lines)) == (2, 1)
    assert f"{angus.segments[4]}: " in call.stderr
    assert any(words in call.stderr for words in CONNECTION_LOST)
    assert "PostgreSQL will ask again" in call.stderr
    assert call.seconds < 20
    assert chris.pg_wal() == []


@both_hosts
def test_one_connection_reset(
    served: Standby, angus: Primary, network: Network, ssh_config: str, wal: Callable[[str], bytes], host: str
) -> None:
    """Fetch through the next connection, without a message."""
    network.harm, network.harmed = Harm("reset", 4 * MIB), 1
    call = served.fetch(angus.segments[4], "-p", "3", *PLAIN, host=host, ssh_config=ssh_config)
    assert network.harmed == 0
    assert call.status == 0
    assert "reset" not in call.stderr
    assert served.delivered() == wal(angus.segments[4])


# --- Silence in the middle of a segment


@both_hosts_and_ways("3")
def test_all_connections_silent(
    chris: Standby,
    angus: Primary,
    network: Network,
    ssh_config: str,
    wal: Callable[[str], bytes],
    host: str,
    jobs: str,
) -> None:
    network.harm = Harm("silence", 4 * MIB)
    call = chris.fetch(angus.segments[4], "-p", jobs, *PLAIN, host=host, ssh_config=ssh_config)
    assert (call.status, len(call.lines)) == (2, 1)
    assert angus.segments[4] in call.stderr
    assert "said nothing for 30 seconds" in call.stderr
    assert 30 <= call.seconds < 58, "once, and not for each connection"
    assert chris.pg_wal() == []
    network.harm = None

    def is_delivered() -> bool:
        return chris.fetch(angus.segments[4], "-p", jobs, *PLAIN, host=host, ssh_config=ssh_config).status == 0

    wait_until(is_delivered, "the end of the seconds in which it does not try", 30, step=1)
    assert chris.delivered() == wal(angus.segments[4])


def test_short_silence(
    chris: Standby, angus: Primary, network: Network, ssh_config: str, wal: Callable[[str], bytes]
) -> None:
    network.harm = Harm("silence", 4 * MIB)
    threading.Timer(10, lambda: setattr(network, "harm", None)).start()
    call = chris.fetch(angus.segments[4], host="gate", ssh_config=ssh_config)
    assert (call.status, call.stderr) == (0, "")
    assert call.seconds >= 10
    assert chris.delivered() == wal(angus.segments[4])


# --- One of several connections


@pytest.mark.parametrize("kind", ["silence", "crawl", "reset"])
def test_one_connection_stalled(
    served: Standby, angus: Primary, barman: BarmanHost, wal: Callable[[str], bytes], kind: str
) -> None:
    with Network(barman.port, delay=0.05) as far:
        ssh_config = barman.reach_through(far.port)

        def fetch(name: str) -> float:
            call = served.fetch(name, "-p", "4", *PLAIN, host="gate", ssh_config=ssh_config)
            assert (call.status, call.stderr) == (0, "")
            assert served.delivered() == wal(name)
            return call.seconds

        fetch(angus.segments[0])
        far.harm, far.harmed = Harm(kind, MIB), 1
        slowest = max(map(fetch, angus.segments[1:]))
        assert far.connections > 1, "more than one connection is used"
        assert far.harmed == 0
        assert slowest < 30, "a crawling segment would take four minutes"


# --- Messages of ssh and sshd


def test_password_prompt(
    chris: Standby, angus: Primary, barman: BarmanHost, workdir: Path, wal: Callable[[str], bytes]
) -> None:
    call = chris.fetch(angus.segments[4], host="prompting")
    assert (call.status, len(call.lines)) == (2, 1)
    assert "Permission denied (publickey,password)" in call.stderr
    assert call.seconds < 30
    # The counter-proof: another ssh would have asked.
    asked = workdir / "asked"
    (workdir / "askpass").write_text(f"#!/bin/sh\necho $* >{asked}\n")
    (workdir / "askpass").chmod(0o755)
    subprocess.run(
        ["ssh", "-F", barman.client / "ssh_config", "-l", ME, "prompting"],
        env={"PATH": "/usr/bin:/bin", "SSH_ASKPASS": str(workdir / "askpass"), "SSH_ASKPASS_REQUIRE": "force"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert "password" in asked.read_text()


@pytest.mark.parametrize("jobs", ["0", "3"])
def test_sshd_banner(chris: Standby, angus: Primary, wal: Callable[[str], bytes], jobs: str) -> None:
    """Ignore the banner, which sshd sends to stderr before it checks the key."""
    call = chris.fetch(angus.segments[4], "-p", jobs, host="bannered")
    assert (call.status, call.stderr) == (0, "")
    assert chris.delivered() == wal(angus.segments[4])


def test_login_message_before_greeting(chris: Standby, angus: Primary, wal: Callable[[str], bytes]) -> None:
    call = chris.fetch(angus.segments[4], "-p", "3", host="greeter")
    assert (call.status, call.stderr) == (0, "")
    assert chris.delivered() == wal(angus.segments[4])


def test_login_message_before_wal(chris: Standby, angus: Primary) -> None:
    call = chris.fetch(angus.segments[4], host="greeter")
    assert (call.status, len(call.lines)) == (3, 1)
    assert "Welcome" in call.stderr
    assert chris.pg_wal() == []


@pytest.mark.skipif(not IS_ROOT, reason="only root may give a process another resolv.conf")
def test_name_server_silent(chris: Standby, angus: Primary, workdir: Path) -> None:
    """End a call although the resolver's wait is not part of ssh's connect limit."""
    (workdir / "resolv.conf").write_text("nameserver 127.77.0.53\n")
    (workdir / "nsswitch.conf").write_text("hosts: files dns\n")
    mounts = "".join(f"mount --bind {workdir}/{file} /etc/{file} && " for file in ("resolv.conf", "nsswitch.conf"))
    become = f"setpriv --reuid={POSTGRES} --regid={POSTGRES} --clear-groups"
    script = workdir / "without-dns"
    script.write_text(f'#!/bin/sh\nexec unshare --mount sh -c \'{mounts}exec {become} "$@"\' sh {chris.fetcher} "$@"\n')
    script.chmod(0o755)
    give(workdir)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server:
        name_server.bind(("127.77.0.53", 53))
        chris.fetcher = script
        started = time.monotonic()
        call = chris.fetch(angus.segments[4], "-p", "3", host="barman.example.com", as_postgres=False)
        name_server.setblocking(False)
        assert name_server.recv(512), "it was asked"
    assert (call.status, len(call.lines)) == (2, 1)
    assert "Could not resolve hostname barman.example.com" in call.stderr
    assert time.monotonic() - started < 41
