"""Let a host trickle, with limits of a second instead of half a minute."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from walbasin.remote import archive, gate_connection, gate_fetch, listing, ssh
from walbasin.remote.archive import Archive
from walbasin.remote.errors import ReadTimeout, RemoteError
from walbasin.remote.ssh import Remote
from walbasin.wal.getwal import Request

from tests.support.wal_builder import build_segment

NAME = "000000010000000000000001"
ARCHIVE = Archive(Remote("barman"), Request("angus", ""), None)
LET_IN = "echo 'Authenticated to barman' >&2; "
GREETING = "echo barman-wal-gate 1 ready; "
# A frame of DATA with 1 MiB, and one with nothing.
ANNOUNCED = r"printf 'D\0\0\0\0\0\20\0\0'; "
EMPTY = r"printf 'D\0\0\0\0\0\0\0\0'; "
TRICKLE = "while sleep 0.05; do printf x; done"
HISTORY = "printf '1\\t0/3000000\\tno reason\\n'"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a shell script in place of ssh."""
    monkeypatch.setattr(ssh, "SILENCE_LIMIT", 1)
    monkeypatch.setattr(gate_connection, "LOOKUP_LIMIT", 1)
    monkeypatch.setattr(ssh, "CONNECT_LIMIT", 1)
    monkeypatch.setattr(ssh, "COMPUTE_LIMIT", 1.5)
    monkeypatch.setattr(ssh, "LEAST", 1000)

    def make(script: str) -> None:
        monkeypatch.setattr(ssh, "ssh_command", lambda *_, **__: ["sh", "-c", script])

    return make


def fetch_through_gate(folder: Path) -> None:
    gate_fetch.fetch(ARCHIVE, NAME, str(folder / "file"), None)


def fetch_directly(folder: Path) -> None:
    archive.fetch(ARCHIVE, NAME, str(folder / "file"))


def list_files(_: Path) -> None:
    listing.ask_gate(ARCHIVE)


@pytest.mark.parametrize(
    ("what", "script", "error"),
    [
        (fetch_through_gate, GREETING + ANNOUNCED + TRICKLE, "sends too slowly"),
        (fetch_through_gate, f"{GREETING} while {EMPTY} do sleep 0.01; done", "sends too slowly"),
        (fetch_through_gate, f"{GREETING} {ANNOUNCED} (printf x; sleep 9)", "said nothing for 1 seconds"),
        (fetch_through_gate, f"{GREETING} while sleep 0.05; do echo x >&2; done", "said nothing for 1 seconds"),
        (fetch_directly, LET_IN + TRICKLE, "sends too slowly"),
        (fetch_directly, f"{LET_IN} printf x; while sleep 0.05; do echo x >&2; done", "said nothing for 1 seconds"),
        (list_files, f"{LET_IN} while sleep 0.05; do echo {NAME}; done", "sends too slowly"),
        (list_files, LET_IN + TRICKLE, "sends too slowly"),
    ],
)
def test_trickle(
    host: Callable[[str], None], tmp_path: Path, what: Callable[[Path], None], script: str, error: str
) -> None:
    host(script)
    started = time.monotonic()
    with pytest.raises(ReadTimeout, match=error):
        what(tmp_path)
    assert 1 <= time.monotonic() - started < 8
    assert list(tmp_path.iterdir()) == []


def test_words_without_an_answer(host: Callable[[str], None], tmp_path: Path) -> None:
    """Give Barman no more time to compute because it talks on stderr."""
    host(f"{LET_IN} while sleep 0.05; do echo computing >&2; done")
    with pytest.raises(RemoteError, match=r"has sent nothing for 1\.5 seconds"):
        fetch_directly(tmp_path)


@pytest.mark.parametrize("script", [f"{LET_IN} sleep 1.2; ", f"{LET_IN} sleep 1.2; echo done >&2; "])
def test_barman_that_computes(host: Callable[[str], None], script: str) -> None:
    host(script + HISTORY)
    assert archive.fetch_history(ARCHIVE, 2) == [(1, 0x3000000)]


def test_slow_link(host: Callable[[str], None], tmp_path: Path) -> None:
    """Let a file through that comes at twice the least rate."""
    source = tmp_path / "source"
    source.write_bytes(build_segment(NAME)[:6000])
    chunk = f"dd if={source} bs=400 count=1 status=none skip=$n"
    host(f"{LET_IN} for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do {chunk}; sleep 0.2; done")
    with pytest.raises(Exception, match="6000 bytes where a segment has"):
        fetch_directly(tmp_path)


@pytest.mark.parametrize(("user", "words"), [("barman", ["-l", "barman", "--"]), ("", ["--"])])
def test_user_of_the_login(user: str, words: list[str]) -> None:
    """Leave the user to ssh's configuration where none is given."""
    command = ssh.ssh_command(Remote("barman2", user), "true")
    assert command[-2 - len(words) :] == [*words, "barman2", "true"]
    assert ("-l" in command) is bool(user)
