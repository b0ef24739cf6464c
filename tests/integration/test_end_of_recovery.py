"""Test what has to be proved before a point-in-time recovery may end.

"Not in the archive" ends it. So it must come from the archive of this cluster, which
must be all there, and hold nothing later. Each test asks for one file.
"""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wal_builder
from tests.support.barman_host import BarmanHost, both_hosts, both_hosts_and_ways
from tests.support.postgres import SEGMENT_SIZE
from tests.support.processes import give, give_folder, start
from tests.support.standby import Standby

from .conftest import Primary

with_and_without_prefetch = pytest.mark.parametrize("jobs", ["0", "8"])


def child_of(name: str) -> str:
    """Return the segment of the same position on timeline 2."""
    return f"00000002{name[8:]}"


# The key `narrow` may run `barman get-wal` on a stock host, and nothing else.
@pytest.mark.parametrize(("host", "jobs"), [("gate", "8"), ("stock", "0"), ("narrow", "0")])
def test_end_proved(
    recovering: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes], host: str, jobs: str
) -> None:
    before, wanted = angus.segments[3:5]
    server = archive({before: wal(before)})
    call = recovering.fetch(wanted, "-p", jobs, "--retry", "0", host=host, server=server)
    assert call.status == 1, call.stderr
    assert "recovery ends here" in call.stderr
    assert recovering.fetch("00000002.history", "-p", jobs, "--retry", "0", host=host, server=server).status == 1


@pytest.mark.parametrize(
    ("wanted", "left", "host", "jobs"),
    [
        ("segment", "nothing", "gate", "0"),
        ("segment", "nothing", "stock", "8"),
        ("segment", "an empty wals folder", "gate", "8"),
        pytest.param("segment", "an empty wals folder", "stock", "0", marks=pytest.mark.matrix),
        pytest.param("segment", "an empty wals folder", "narrow", "8", marks=pytest.mark.matrix),
        ("history", "nothing", "gate", "8"),
        pytest.param("history", "an empty wals folder", "gate", "0", marks=pytest.mark.matrix),
        ("history", "an empty wals folder", "stock", "8"),
    ],
)
def test_unmounted_archive(
    recovering: Standby,
    angus: Primary,
    barman: BarmanHost,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    wanted: str,
    left: str,
    host: str,
    jobs: str,
) -> None:
    server = archive({name: wal(name) for name in angus.segments[:8]})
    assert recovering.fetch(angus.segments[3], "-p", jobs, "--retry", "0", host=host, server=server).status == 0
    shutil.rmtree(barman.home / server)
    if left != "nothing":
        (barman.home / server / "wals").mkdir(parents=True)
    name = angus.segments[7] if wanted == "segment" else "00000002.history"
    call = recovering.fetch(name, "-p", jobs, "--retry", "0", host=host, server=server)
    assert call.status == 200, call.stderr


@both_hosts
def test_archive_of_another_cluster(
    recovering: Standby, angus: Primary, archive: Callable[..., str], host: str
) -> None:
    before, wanted = angus.segments[3:5]
    server = archive({before: wal_builder.build_segment(before, angus.system_identifier ^ 1, SEGMENT_SIZE)})
    call = recovering.fetch(wanted, "--retry", "0", host=host, server=server)
    assert call.status == 200, call.stderr
    assert "another cluster" in call.stderr


@pytest.mark.parametrize(
    ("host", "distance"),
    [
        *(("gate", distance) for distance in (1, 3, 200, 300)),
        ("stock", 300),
        *(pytest.param("stock", distance, marks=pytest.mark.matrix) for distance in (1, 3, 200)),
    ],
)
def test_gap_of_any_length(
    recovering: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    host: str,
    distance: int,
) -> None:
    before, gap = angus.segments[3:5]
    high, low = divmod(int(gap[16:], 16) + distance, 256)
    after = f"{gap[:8]}{high:08X}{low:08X}"
    server = archive(
        {before: wal(before), after: wal_builder.build_segment(after, angus.system_identifier, SEGMENT_SIZE)}
    )
    call = recovering.fetch(gap, "--retry", "0", host=host, server=server)
    assert call.status == 200, call.stderr
    assert f"a gap here: it holds {after}" in call.stderr


@both_hosts_and_ways("8")
def test_gap_behind_partial(
    recovering: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    barman: BarmanHost,
    host: str,
    jobs: str,
) -> None:
    """Deliver a .partial only where nothing later is held."""
    before, gap, after = angus.segments[3:6]
    content = wal(gap)
    cut = len(content.rstrip(b"\0")) // 3
    partial = content[:cut] + bytes(len(content) - cut)
    server = archive({before: wal(before), after: wal(after)})
    barman.put(server, f"{gap}.partial", partial)
    (barman.home / server / "streaming" / f"{gap}.partial").write_bytes(partial)
    call = recovering.fetch(gap, "-P", "-p", jobs, "--retry", "0", host=host, server=server)
    assert call.status == 200, call.stderr
    assert after in call.stderr
    barman.file(server, after).unlink()
    call = recovering.fetch(gap, "-P", "-p", jobs, "--retry", "0", host=host, server=server)
    assert call.status == 0, call.stderr
    assert recovering.delivered() == partial


def test_partial_on_standby(
    chris: Standby, angus: Primary, archive: Callable[..., str], wal: Callable[[str], bytes], barman: BarmanHost
) -> None:
    before, gap, after = angus.segments[3:6]
    server = archive({before: wal(before), after: wal(after)})
    (barman.home / server / "streaming" / f"{gap}.partial").write_bytes(wal(gap))
    assert chris.fetch(gap, "-P", host="gate", server=server).status == 1
    assert chris.pg_wal() == []
    barman.file(server, after).unlink()
    assert chris.fetch(gap, "-P", host="gate", server=server).status == 0


@pytest.mark.parametrize(("own", "status"), [(3, 1), (1, 0)])
def test_partial_beside_own_segment(
    chris: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    barman: BarmanHost,
    own: int,
    status: int,
) -> None:
    """Deliver a .partial only where it goes further than what the standby has received.

    PostgreSQL puts what it restores in the place of its own file.
    """
    before, last = angus.segments[3:5]
    server = archive({before: wal(before)})

    written = wal(last).rstrip(b"\0")

    def beginning(quarters: int) -> bytes:
        return written[: quarters * len(written) // 4].ljust(SEGMENT_SIZE, b"\0")

    (barman.home / server / "streaming" / f"{last}.partial").write_bytes(beginning(2))
    path = chris.data / "pg_wal" / last
    path.write_bytes(beginning(own))
    give(path)
    call = chris.fetch(last, "-P", host="gate", server=server)
    assert call.status == status, call.stderr
    if status == 0:
        assert chris.delivered() == beginning(2)
    assert path.read_bytes() == beginning(own)
    assert chris.pg_wal() == [last]


@pytest.mark.parametrize(
    ("host", "setting", "status"),
    [
        ("gate", "", 200),
        ("gate", "latest", 200),
        ("gate", "2", 200),
        ("gate", "current", 1),
        ("gate", "1", 1),
        ("stock", "", 200),
        pytest.param("stock", "current", 1, marks=pytest.mark.matrix),
    ],
)
def test_child_timeline_without_history(
    recovering: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    host: str,
    setting: str,
    status: int,
) -> None:
    """Notice that the history is missing that leads to the newest timeline."""
    last, wanted = angus.segments[4:6]
    child = child_of(wanted)
    server = archive({last: wal(last), child: wal_builder.build_segment(child, angus.system_identifier, SEGMENT_SIZE)})
    if setting:
        (recovering.data / "postgresql.conf").write_text(f"recovery_target_timeline = '{setting}'\n")
    else:
        (recovering.data / "postgresql.conf").unlink(missing_ok=True)
    call = recovering.fetch(wanted, "--retry", "0", host=host, server=server)
    assert call.status == status, call.stderr
    assert (child in call.stderr) == (status == 200)


@both_hosts
def test_missing_history(recovering: Standby, angus: Primary, archive: Callable[..., str], host: str) -> None:
    child = child_of(angus.segments[5])
    server = archive({child: wal_builder.build_segment(child, angus.system_identifier, SEGMENT_SIZE)})
    call = recovering.fetch("00000002.history", "--retry", "0", host=host, server=server)
    assert call.status == 200, call.stderr
    assert child in call.stderr


@both_hosts
def test_passive_node(
    recovering: Standby,
    angus: Primary,
    archive: Callable[..., str],
    wal: Callable[[str], bytes],
    barman: BarmanHost,
    host: str,
) -> None:
    """Do not end a recovery where a copy of the archive ends."""
    before, wanted = angus.segments[3:5]
    server = archive({before: wal(before)})
    with (barman.folder / "barman.d" / f"{server}.conf").open("a") as file:
        file.write("primary_ssh_command = ssh barman@elsewhere\n")
    call = recovering.fetch(wanted, "--retry", "0", host=host, server=server)
    assert call.status == 200, call.stderr
    assert "passive copy" in call.stderr
    assert recovering.fetch(wanted, "--mode", "standby", host=host, server=server).status == 1


@pytest.mark.parametrize("fault", ["no host", "wrong option", "no Python"])
@pytest.mark.parametrize("mode", [None, "standby", "recovery"])
def test_unknown_data_directory(
    recovering: Standby, angus: Primary, workdir: Path, mode: str | None, fault: str
) -> None:
    """Give the careful answer where nobody knows what is being recovered."""
    elsewhere = give_folder(workdir / "elsewhere")
    options = ["--mode", mode] if mode else []
    options += ["--wrong"] if fault == "wrong option" else []
    call = recovering.fetch(
        angus.segments[3],
        *options,
        *("--retry", "0"),
        host="refused",
        destination=elsewhere / "x",
        cwd=elsewhere,
        env={"PYTHONHOME": "/nonexistent"} if fault == "no Python" else None,
    )
    is_told = mode == "standby" and fault != "wrong option"
    assert call.status == (2 if is_told else 200), call.stderr


@pytest.mark.parametrize("signal_file", ["recovery.signal", "standby.signal"])
def test_data_directory_of_server(
    make_standby: Callable[..., Standby],
    restore_command: Callable[..., str],
    angus: Primary,
    workdir: Path,
    signal_file: str,
) -> None:
    """Find the data directory of the server that has started a wrapper."""
    standby = make_standby(signal_file)
    elsewhere = give_folder(workdir / "elsewhere")
    command = restore_command("--retry", "0", host="refused")
    command = command.replace("%f", angus.segments[3]).replace("%p", f"{elsewhere}/x")
    process = start(["sh", "-c", f"(cd {elsewhere} && {command}); exit $?"], standby.data)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (200 if signal_file == "recovery.signal" else 2), stderr
    assert "origin not checked" not in stderr


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "link"])
@with_and_without_prefetch
def test_destination_that_is_no_file(
    recovering: Standby, angus: Primary, workdir: Path, restore_command: Callable[..., str], kind: str, jobs: str
) -> None:
    """Leave alone what is no file, as root too, and end no recovery."""
    first, second = angus.segments[3:5]
    assert recovering.fetch(first, "-p", jobs, host="gate").status == 0
    if jobs != "0":
        recovering.wait_for_spooled(second)
    destination = workdir / "destination"
    if kind == "device":
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        os.mknod(destination, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "pipe":
        os.mkfifo(destination)
    elif kind == "folder":
        destination.mkdir()
    else:
        destination.symlink_to("target")
    before = destination.lstat()
    call = recovering.fetch(
        second, "-p", jobs, host="gate", destination=destination, as_postgres=kind not in ("device", "pipe")
    )
    assert call.status == 200, call.stderr
    assert "no regular file" in call.stderr
    assert destination.lstat() == before
