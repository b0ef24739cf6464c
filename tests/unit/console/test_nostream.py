"""Test how Patroni is told to keep a member from streaming."""

import getpass
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from console import nostream, patroni
from console.hosts import Cluster
from console.text import NotUnderstood
from tests.support.console_standby import CHRIS, Answering
from tests.support.processes import wait_until

FILE = """
scope: 15-main
name: chris
restapi:
  authentication: {username: patroni, password: 'secret: #1'}
"""


@pytest.mark.parametrize(
    ("versions", "server_version", "expected"),
    [
        ("patronictl version 4.0.7\n\nchris: Patroni 4.0.7 PostgreSQL 17.6\n", "17.6 (Debian 17.6-1)", True),
        ("patronictl version 4.0.7\n\nchris: Patroni 3.3.0 PostgreSQL 13.1\n", "13.1", True),
        ("patronictl version 4.0.7\n\nchris: Patroni 3.2.2 PostgreSQL 15.1\n", "15.1", False),
        # primary_conninfo costs a restart there.
        ("patronictl version 4.0.7\n\nchris: Patroni 4.0.7 PostgreSQL 12.1\n", "12.1", False),
        # Of another member, of none, and of one that does not answer.
        ("patronictl version 4.0.7\n\nbon: Patroni 4.0.7 PostgreSQL 17.6\n", "17.6", False),
        ("patronictl version 4.0.7\n", "17.6", False),
        ("chris: failed to get version: timed out\n", "17.6", False),
        ("chris: Patroni None\n", "17.6", False),
        ("chris: Patroni 4.0.7 PostgreSQL 17.6\n", "", False),
    ],
)
def test_can_stop_streaming(versions: str, server_version: str, expected: bool) -> None:
    assert nostream.can_stop_streaming("chris", versions, server_version, {}) is expected


@pytest.mark.parametrize(
    ("dynamic", "expected"),
    [
        ({"pause": False, "slots": None}, True),
        ({"slots": {"barman": {"type": "physical"}}}, True),
        # Nothing would happen; it would cost a restart; and what is not understood.
        ({"pause": True}, False),
        ({"slots": {"barman": {"type": "physical"}, "events": {"type": "logical"}}}, False),
        ({"slots": {"barman": {}}}, False),
        ({"slots": ["barman"]}, False),
    ],
)
def test_dynamic_configuration(dynamic: dict[str, Any], expected: bool) -> None:
    versions = "chris: Patroni 4.0.7 PostgreSQL 17.6"
    assert nostream.can_stop_streaming("chris", versions, "17.6", dynamic) is expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", {"nostream": True}),
        ("tags:\n", {"nostream": True}),
        ("tags: {nofailover: true}\n", {"nofailover": True, "nostream": True}),
        ("tags: {nostream: false}\n", {"nostream": True}),
    ],
)
def test_tag(tags: str, expected: dict[str, Any]) -> None:
    """Add the tag, and change nothing else."""
    added = yaml.safe_load(nostream.add_tag("chris", FILE + tags))
    assert added.pop("tags") == expected
    assert added == yaml.safe_load(FILE)


@pytest.mark.parametrize("text", ["", "7", "[]", "secret: [", "a: 2025-13-45", "tags: [secret]", "[" * 100_000])
def test_configuration_not_understood(text: str) -> None:
    with pytest.raises(NotUnderstood, match=r"chris: not understood: Patroni's configuration file$"):
        nostream.add_tag("chris", text)


@pytest.mark.parametrize(
    ("text", "identity"), [(FILE, ("15-main", "chris")), ("scope: 15-main", ("15-main", "")), ("name:", ("", ""))]
)
def test_identity(text: str, identity: tuple[str, str]) -> None:
    assert patroni.find_identity("chris", text) == identity


def test_no_secret_among_the_words() -> None:
    member = CHRIS._replace(patroni_file="/etc/patroni/15-main.yml", patroni_path="/usr/bin")
    interruption = nostream.nostream(Cluster("chris", Answering({}), member), FILE)
    assert interruption.words == ("/etc/patroni/15-main.yml", "postgres", str(len(interruption.text)))
    assert "secret" in interruption.text
    assert "secret" not in interruption.check + interruption.make + interruption.undo


# Looks like a patroni to whoever looks for one, and counts the signals.
PATRONI = """
import pathlib, signal, sys, time
heard = pathlib.Path(sys.argv[1]).parent / "heard"
signal.signal(signal.SIGHUP, lambda *_: heard.write_text(heard.read_text() + "x"))
heard.write_text("")
time.sleep(60)
time.sleep(60)
"""
CHANGED = "scope: 15-main\ntags: {nostream: true}\n"


class Member:
    """Have a configuration file in a folder of root's, and a process that reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "main.yml"
        self.file.write_text(FILE)
        self.file.chmod(0o640)
        (folder / "patroni").write_text(PATRONI)
        self.process = subprocess.Popen(["python3", folder / "patroni", self.file])
        wait_until((folder / "heard").exists, "the process")

    def run(self, script: str, text: str = "", file: Path | None = None) -> str:
        """Return what a script says on stderr, or nothing when it succeeds."""
        words = [str(file or self.file), getpass.getuser(), str(len(CHANGED))]
        command = ["sh", "-c", script, "sh", *words]
        ran = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        return ran.stderr if ran.returncode else ""

    def heard(self) -> int:
        return len((self.folder / "heard").read_text())


def _require_mounts(folder: Path) -> None:
    """Skip the test in a container that may not mount."""
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False).returncode:
        pytest.skip("root may not mount here")
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def member() -> Iterator[Member]:
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="walbasin-") as folder:
        _require_mounts(Path(folder))
        made = Member(Path(folder))
        try:
            yield made
        finally:
            made.process.kill()
            made.process.wait()
            made.run(nostream.UNDO)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")


@needs_root
def test_mounted_configuration(member: Member) -> None:
    """Change nothing on the disk, and undo it as often as is asked."""
    assert member.run(nostream.CHECK) == ""
    before = member.file.stat()
    assert member.run(nostream.MAKE, CHANGED) == ""
    assert member.file.read_text() == CHANGED
    assert (member.file.stat().st_mode, member.file.stat().st_uid) == (before.st_mode, before.st_uid)
    assert not Path(nostream.COPY).exists()
    wait_until(lambda: member.heard() == 1, "the signal")
    assert "is a mount already" in member.run(nostream.CHECK)
    for times in (2, 3):
        assert member.run(nostream.UNDO) == ""
        wait_until(lambda times=times: member.heard() == times, "the signal")  # type: ignore[misc]
        assert member.file.read_text() == FILE
    after = member.file.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


@needs_root
def test_part_of_a_configuration(member: Member) -> None:
    """Mount nothing where the connection has broken."""
    assert "only a part of the configuration has come" in member.run(nostream.MAKE, CHANGED[:-1])
    assert member.file.read_text() == FILE
    assert member.heard() == 0


@needs_root
def test_file_that_others_can_replace(member: Member) -> None:
    link = member.folder / "link.yml"
    link.symlink_to(member.file)
    for script in (nostream.CHECK, nostream.MAKE):
        assert f"{link} is a link" in member.run(script, CHANGED, link)
    member.folder.chmod(0o775)
    for script in (nostream.CHECK, nostream.MAKE):
        assert f"{member.folder} is not root's alone" in member.run(script, CHANGED)
    assert member.file.read_text() == FILE


@needs_root
def test_no_patroni(member: Member) -> None:
    """Refuse it where nobody would read the file, but undo it there."""
    member.process.kill()
    member.process.wait()
    assert "no patroni runs with" in member.run(nostream.CHECK)
    assert member.run(nostream.UNDO) == ""


@needs_root
def test_mount_of_somebody_else(member: Member) -> None:
    other = member.folder / "other.yml"
    other.write_text("scope: other\n")
    subprocess.run(["mount", "--bind", other, member.file], check=True)
    try:
        assert member.run(nostream.UNDO) == ""
        assert member.file.read_text() == "scope: other\n"
    finally:
        subprocess.run(["umount", member.file], check=True)
