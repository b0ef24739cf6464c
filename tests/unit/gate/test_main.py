import re
from pathlib import Path

import pytest
from walbasin.gate import main
from walbasin.wal import getwal
from walbasin.wal.getwal import Refused

SEGMENT = "000000010000000000000001"


@pytest.mark.parametrize(
    ("remote_command", "command"),
    [
        (f"barman get-wal 'angus' '{SEGMENT}'", ["barman", "get-wal", "angus", SEGMENT]),
        (
            f"barman get-wal --peek '8' 'angus' '{SEGMENT}'",
            ["barman", "get-wal", "--peek", "8", "angus", SEGMENT],
        ),
        (
            "barman get-wal --gzip --partial 'berta' '00000002.history'",
            ["barman", "get-wal", "--gzip", "--partial", "berta", "00000002.history"],
        ),
    ],
)
def test_served_commands(remote_command: str, command: list[str]) -> None:
    asked = main.parse(remote_command, ["angus", "berta"], "")
    assert isinstance(asked, getwal.Request)
    assert ["barman", *getwal.arguments(asked)] == command


@pytest.mark.parametrize(
    ("remote_command", "cause"),
    [
        ("", "opens no shell"),
        (f"barman get-wal 'clara' '{SEGMENT}'", "server 'clara'"),
        (f"barman get-wal 'angus,berta' '{SEGMENT}'", "server 'angus,berta'"),
        (f"barman get-wal '../angus' '{SEGMENT}'", "server '../angus'"),
        (f"barman get-wal 'ANGUS' '{SEGMENT}'", "server 'ANGUS'"),
        (f"barman get-wal 'all' '{SEGMENT}'", "server 'all'"),
        (f"barman --config /tmp/evil.conf get-wal 'angus' '{SEGMENT}'", "configuration '/tmp/evil.conf'"),
        ("cat /etc/passwd", "only barman get-wal"),
        ("barman-wal-gate 1 list clara ''", "server 'clara'"),
        ("barman-wal-gate 1 list angus /tmp/evil.conf", "configuration '/tmp/evil.conf'"),
    ],
)
def test_refused_commands(remote_command: str, cause: str) -> None:
    with pytest.raises(Refused, match=cause):
        main.parse(remote_command, ["angus", "berta"], "")


@pytest.mark.parametrize("option", ["", "--config /etc/b2.conf "])
def test_configuration_of_the_key(option: str) -> None:
    remote_command = f"barman {option}get-wal 'angus' '{SEGMENT}'"
    command = ["barman", "--config", "/etc/b2.conf", "get-wal", "angus", SEGMENT]
    asked = main.parse(remote_command, ["angus"], "/etc/b2.conf")
    assert isinstance(asked, getwal.Request)
    assert ["barman", *getwal.arguments(asked)] == command


def test_refusal_logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    logged: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _, text: logged.append(text))
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", "barman get-wal angus \x1b[2J")
    monkeypatch.setenv("SSH_CONNECTION", "10.1.2.3 40000 10.1.2.4 22")
    assert main.main(["angus"]) == main.REFUSED
    assert capsys.readouterr().err.startswith("barman-wal-gate: refused: ")
    (text,) = logged
    assert "10.1.2.3" in text
    assert r"'barman get-wal angus \x1b[2J'" in text


def test_mistake_in_the_gate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Write a traceback into the log of the Barman host, and show the client none."""
    logged: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _, text: logged.append(text))
    nothing: dict[str, int] = {}
    monkeypatch.setattr(main, "_serve", lambda *_: nothing["x"])
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", f"barman get-wal angus {SEGMENT}")
    assert main.main(["angus"]) == main.REFUSED
    assert (logged[0], logged[-1]) == ("Traceback (most recent call last):", "KeyError: 'x'")
    words = "barman-wal-gate: internal error, please report it; the traceback is in this host's log\n"
    assert capsys.readouterr().err == words


def test_address_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell one connection from the next in the file, and follow no link."""
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", "barman get-wal --test angus dummy_wal_name")
    monkeypatch.setenv("SSH_CONNECTION", "10.1.2.3 40000 10.1.2.4 22")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    learned = tmp_path / "learned"
    texts = set()
    for _ in range(2):
        main.main(["--learn", str(learned), "angus"])
        texts.add(learned.read_text(encoding="utf-8"))
    assert len(texts) == 2
    assert all(re.fullmatch(r"10\.1\.2\.3 [0-9]+\n", text) for text in texts)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert main.main(["--learn", str(tmp_path / "link"), "angus"]) == main.REFUSED
    assert not (tmp_path / "target").exists()


def test_host_without_barman(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", f"barman get-wal angus {SEGMENT}")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main.main(["angus"]) == main.REFUSED
    assert "cannot run barman: No such file or directory (looked in /nonexistent)" in capsys.readouterr().err
