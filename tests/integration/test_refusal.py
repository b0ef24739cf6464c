"""Test refusals: of WAL that must not be delivered, and of unsafe spools."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost
from tests.support.postgres import SEGMENT_SIZE
from tests.support.processes import give
from tests.support.standby import Standby

from .conftest import Primary


def wrong(kind: str, good: bytes, name: str, system_identifier: int) -> bytes:
    """Return the content of a segment that must be refused."""
    make: dict[str, Callable[[], bytes]] = {
        "of another cluster": lambda: wal_builder.build_segment(name, system_identifier ^ 1, SEGMENT_SIZE),
        "of a newer timeline": lambda: wal_builder.build_segment(name, system_identifier, SEGMENT_SIZE, timeline=2),
        "under another name": lambda: wal_builder.build_segment(
            "0000000100000000000000EE", system_identifier, SEGMENT_SIZE
        ),
        "of another size": lambda: wal_builder.build_segment(name, system_identifier, wal_builder.MIB),
        "of a larger size": lambda: wal_builder.build_segment(name, system_identifier, 4 * SEGMENT_SIZE),
        "truncated": lambda: good[: SEGMENT_SIZE // 2],
        "too long": lambda: good + b"x",
        "empty": lambda: b"",
        "zeros": lambda: bytes(SEGMENT_SIZE),
        "truncated gzip": lambda: gzip.compress(good, 1)[:-100],
    }
    return make[kind]()


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("of another cluster", "another cluster"),
        ("of a newer timeline", "timeline 2, newer"),
        ("under another name", "another segment"),
        ("of another size", "segments of 1 MiB, and this cluster's have 16 MiB"),
        ("of a larger size", "segments of 64 MiB, and this cluster's have 16 MiB"),
        ("truncated", "8388608 bytes where a segment has 16777216"),
        ("too long", "in this cluster such a file has 16777216 bytes at most"),
        ("empty", "0 bytes"),
        ("zeros", "WAL page header"),
        ("truncated gzip", "its gzip form ends too early"),
    ],
)
def test_wrong_segment(
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
    assert chris.pg_wal() == []


@pytest.mark.parametrize("text", [b"", b"<html>\n", b"5\t0/100\tfrom the future\n"])
def test_wrong_history(chris: Standby, archive: Callable[..., str], text: bytes) -> None:
    server = archive({"00000002.history": text})
    call = chris.fetch("00000002.history", server=server, destination="pg_wal/RECOVERYHISTORY")
    assert call.status == 3
    assert chris.pg_wal() == []


def test_wrong_segment_not_in_spool(
    chris: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes]
) -> None:
    good, foreign = angus.segments[4:6]
    server = archive(
        {good: wal(good), foreign: wal_builder.build_segment(foreign, angus.system_identifier ^ 1, SEGMENT_SIZE)}
    )
    assert chris.fetch(good, "-p", "3", server=server, host="gate").status == 0
    call = chris.fetch(foreign, "-p", "3", server=server, host="gate")
    assert call.status == 3
    assert "another cluster" in call.stderr
    assert chris.spooled() == []


def test_spool_of_another_cluster(
    chris: Standby, angus: Primary, fetcher: Path, workdir: Path, barman: BarmanHost
) -> None:
    assert chris.fetch(angus.segments[4], "-p", "2").status == 0
    chris.wait_for_spooled(angus.segments[5])
    copy = wal_builder.build_data_directory(workdir / "copy", 15, angus.system_identifier, "standby.signal")
    other = Standby(workdir, give(copy), fetcher, barman)
    assert other.spool == chris.spool
    assert other.fetch(angus.segments[5], ssh_config="unplugged").status == 2
    assert chris.fetch(angus.segments[5], ssh_config="unplugged").status == 0


@pytest.mark.parametrize("fault", ["a link", "open to others", "a file", "not writable", "of somebody else"])
def test_unusable_spool(chris: Standby, angus: Primary, wal: Callable[[str], bytes], fault: str) -> None:
    if fault == "a link":
        (chris.folder / "elsewhere").mkdir(mode=0o700)
        chris.spool.symlink_to(give(chris.folder / "elsewhere"))
    elif fault == "open to others":
        chris.spool.mkdir()
        give(chris.spool).chmod(0o777)
    elif fault == "a file":
        chris.spool.touch()
    elif fault == "not writable":
        chris.spool.mkdir()
        give(chris.spool).chmod(0o500)
    else:
        chris.spool = Path("/proc/1")
    call = chris.fetch(angus.segments[4], "-p", "3")
    assert call.status == 0
    assert len(call.lines) == 1
    assert str(chris.spool) in call.stderr
    assert chris.delivered() == wal(angus.segments[4])
