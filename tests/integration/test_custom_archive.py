"""Fetch from archives that the fetcher cannot decompress: the Barman host has to."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from walbasin.remote.gate_connection import LOOKUP_LIMIT

from tests.support.barman_host import CUSTOM, CUSTOM_FILTER, BarmanHost, both_hosts
from tests.support.postgres import SEGMENT_SIZE
from tests.support.standby import Standby

from .conftest import Primary

HISTORY = "00000002.history"
ENCRYPTED = """
encryption = gpg
encryption_key_id = barman
encryption_passphrase_command = echo secret
"""
# Barman asks the program `file` what is encrypted. `file` knows a session key of 3072
# bits by its first bytes. About one in 200 is shorter, and Barman sends it as it is.
RECOGNISED, UNRECOGNISED = b"\x85\x01\x8c\x03", b"\x85\x01\x8b\x03"


@pytest.fixture
def custom(barman: BarmanHost, angus: Primary, name: str, wal: Callable[[str], bytes]) -> str:
    """Return a server whose archive is compressed with a filter of its own."""
    barman.add_server(name, settings=CUSTOM)
    contents = {file: wal(file) for file in angus.segments} | {HISTORY: b"1\t0/3000000\tno reason\n"}
    for file, content in contents.items():
        done = subprocess.run(CUSTOM_FILTER, shell=True, input=content, stdout=subprocess.PIPE, check=True)
        barman.put(name, file, done.stdout)
    return name


@pytest.fixture
def keyring(barman: BarmanHost) -> Iterator[Path]:
    """Give Barman's user a key to encrypt with."""
    folder = barman.folder / "account" / ".gnupg"
    folder.mkdir(mode=0o700, exist_ok=True)
    words = ["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "secret"]
    subprocess.run(["gpg", "--homedir", folder, *words, "--quick-gen-key", "barman", "rsa3072", "encrypt"], check=True)
    yield folder
    subprocess.run(["gpgconf", "--homedir", folder, "--kill", "gpg-agent"], check=True)
    shutil.rmtree(folder, ignore_errors=True)  # the agent takes its sockets away too


@pytest.fixture
def encrypted(barman: BarmanHost, angus: Primary, name: str, wal: Callable[[str], bytes], keyring: Path) -> str:
    """Return a server whose archive only Barman itself can undo."""
    barman.add_server(name, settings=ENCRYPTED)
    for file in angus.segments:
        barman.put(name, file, _encrypt(keyring, wal(file)))
    return name


def _encrypt(keyring: Path, content: bytes) -> bytes:
    """Return an encrypted file that Barman recognises."""
    options = ["--batch", "--quiet", "--trust-model", "always"]
    words = ["gpg", "--homedir", str(keyring), *options, "--encrypt", "--recipient", "barman"]
    for _ in range(10):
        encrypted = subprocess.run(words, input=content, stdout=subprocess.PIPE, check=True).stdout
        if encrypted.startswith(RECOGNISED):
            return encrypted
    raise AssertionError("gpg has written no file that Barman recognises")


@both_hosts
def test_custom_compression(
    served: Standby, angus: Primary, barman: BarmanHost, custom: str, wal: Callable[[str], bytes], host: str
) -> None:
    barman.requests()
    for file in angus.segments[:3]:
        assert served.fetch(file, "-p", "4", host=host, server=custom).status == 0
        assert served.delivered() == wal(file)
    assert served.fetch(HISTORY, "-p", "4", host=host, server=custom).status == 0
    assert served.delivered() == b"1\t0/3000000\tno reason\n"
    # The gate runs the filter itself: that is what makes it fast.
    assert (barman.requests() == []) == (host == "gate")


@pytest.mark.parametrize("option", ["-z", "-j", "--compress=zstd"])
def test_custom_and_compressed(
    served: Standby, angus: Primary, barman: BarmanHost, custom: str, wal: Callable[[str], bytes], option: str
) -> None:
    """Compress for the way what the filter has undone."""
    file = angus.segments[0]
    barman.requests()
    assert served.fetch(file, "-p", "2", option, host="gate", server=custom).status == 0
    assert served.delivered() == wal(file)
    assert barman.requests() == []


def test_slow_filter(
    served: Standby, angus: Primary, barman: BarmanHost, name: str, wal: Callable[[str], bytes]
) -> None:
    """Wait for a filter that takes longer than a look into the archive may."""
    barman.add_server(name, settings=CUSTOM.replace("sh -c 'tail", f"sh -c 'sleep {LOOKUP_LIMIT + 2}; tail"))
    file = angus.segments[0]
    stored = subprocess.run(CUSTOM_FILTER, shell=True, input=wal(file), stdout=subprocess.PIPE, check=True).stdout
    barman.put(name, file, stored)
    barman.requests()
    assert served.fetch(file, "-p", "2", host="gate", server=name).status == 0
    assert served.delivered() == wal(file)
    assert barman.requests() == []


def test_damaged(served: Standby, angus: Primary, barman: BarmanHost, custom: str) -> None:
    """Have Barman say what is wrong with a file that its filter cannot undo."""
    file = angus.segments[0]
    stored = barman.file(custom, file)
    stored.write_bytes(stored.read_bytes()[: SEGMENT_SIZE // 1000])
    barman.requests()
    call = served.fetch(file, "-p", "2", "--retry", "0", host="gate", server=custom)
    assert call.status not in (0, 1)
    assert file in call.stderr
    assert any(file in request for request in barman.requests())
    assert served.pg_wal() == []


@both_hosts
def test_encrypted(served: Standby, angus: Primary, encrypted: str, wal: Callable[[str], bytes], host: str) -> None:
    for file in angus.segments[:2]:
        assert served.fetch(file, "-p", "2", host=host, server=encrypted).status == 0
        assert served.delivered() == wal(file)


@both_hosts
def test_unrecognised_encryption(
    served: Standby, angus: Primary, barman: BarmanHost, encrypted: str, host: str
) -> None:
    """Refuse, and name, what Barman has sent encrypted."""
    file = angus.segments[0]
    stored = barman.file(encrypted, file)
    stored.write_bytes(UNRECOGNISED + stored.read_bytes()[len(UNRECOGNISED) :])
    call = served.fetch(file, "-p", "2", host=host, server=encrypted)
    assert call.status == 3
    assert "GPG" in call.stderr
    assert served.pg_wal() == []


def test_side_by_side(served: Standby, angus: Primary, barman: BarmanHost, encrypted: str) -> None:
    """Bring what comes next, although Barman is slow with the segment before it."""
    first, second, third, slow, *others = angus.segments[:8]
    barman.hold(slow)
    for file in (first, second, third):
        assert served.fetch(file, "-p", "5", host="gate", server=encrypted).status == 0
    served.wait_for_spooled(*others[:3])
    assert slow not in served.spooled()
    barman.calm()
    served.wait_for_spooled(slow)
