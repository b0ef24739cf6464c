"""Another user of the standby's host, who wants his WAL to be replayed: /var/tmp is everybody's."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import IS_ROOT, give, run
from tests.support.standby import Standby

from .conftest import Primary

pytestmark = pytest.mark.skipif(not IS_ROOT, reason="only root may act as another user")
NEIGHBOUR = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


def as_neighbour(script: str, folder: Path) -> None:
    run([*NEIGHBOUR, "sh", "-ec", script], folder, as_postgres=False)


@pytest.fixture
def tmp(served: Standby, place: Path) -> Path:
    """A folder like /var/tmp, in which the spool is to be."""
    folder = place / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    served.spool = folder / "barman-wal-restore"
    return folder


def planted(served: Standby, angus: Primary, tmp: Path) -> str:
    """A script that makes a spool `made` like ours, with wrong segments under the right names, and a link to them."""
    original = tmp.parent / "original"
    spool, served.spool = served.spool, original
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    (link,) = [path for path in original.iterdir() if path.is_symlink()]
    folder = link.resolve().relative_to(original)
    served.spool = spool
    lines = [f"mkdir -p 'made/{folder}'", f"ln -s '{folder}' 'made/{link.name}'"]
    lines += [f"echo wrong >'made/{folder}/{name}'" for name in angus.segments]
    return "\n".join([*lines, "chmod -R a+rX made"])


def assert_it_is_not_used(served: Standby, names: list[str], wal: Callable[[str], bytes]) -> None:
    """And that is said in a line, and the right bytes come all the same."""
    for name in names:
        call = served.fetch(name, "-p", "3", host="gate")
        assert (call.status, len(call.lines)) == (0, 1)
        assert "barman-wal-restore" in call.stderr
        assert "fetching without it" in call.stderr
        assert served.delivered() == wal(name)


@pytest.mark.parametrize("mode", ["0700", "0755", "0777"])
def test_a_spool_made_beforehand_with_files_of_the_right_names(
    served: Standby, angus: Primary, tmp: Path, wal: Callable[[str], bytes], mode: str
) -> None:
    as_neighbour(planted(served, angus, tmp), tmp)
    as_neighbour(f"mv made barman-wal-restore; chmod {mode} barman-wal-restore", tmp)
    assert_it_is_not_used(served, angus.segments[3:6], wal)


@pytest.mark.parametrize("target", ["a folder of his", "a folder of postgres's"])
def test_a_link_in_place_of_the_spool(
    served: Standby, angus: Primary, tmp: Path, wal: Callable[[str], bytes], target: str
) -> None:
    as_neighbour(planted(served, angus, tmp), tmp)
    as_neighbour(f"ln -s {'made' if target == 'a folder of his' else tmp.parent / 'original'} barman-wal-restore", tmp)
    assert_it_is_not_used(served, angus.segments[4:6], wal)


def test_a_planted_file_would_be_taken_from_a_spool_of_ours(served: Standby, angus: Primary, tmp: Path) -> None:
    """The counter-proof: what these tests plant is where we look."""
    as_neighbour(planted(served, angus, tmp), tmp)
    (tmp / "made").rename(served.spool)
    give(served.spool)
    run(["chmod", "-R", "go=", served.spool], tmp, as_postgres=False)
    assert served.fetch(angus.segments[4], "-p", "3", host="gate").status == 0
    assert served.delivered() == b"wrong\n"


@pytest.fixture
def swapping(served: Standby, angus: Primary, tmp: Path) -> Iterator[None]:
    """The neighbour owns the folder that our spool is in, and exchanges it for his own all the time."""
    script = planted(served, angus, tmp)
    run(["chown", "nobody", tmp], tmp, as_postgres=False)
    as_neighbour(script, tmp)
    # Ours is taken away, his folder and a link to it take turns in its place, and ours comes back if it can.
    loop = """
        a_moment() { sleep "0.0$((RANDOM % 10))"; }
        for number in $(seq 100000); do
            mv -T barman-wal-restore "ours.$number" && mv -T made barman-wal-restore && a_moment
            mv -T barman-wal-restore made && ln -s made barman-wal-restore && a_moment
            rm barman-wal-restore
            mv -T "ours.$number" barman-wal-restore
            a_moment
        done 2>/dev/null"""
    process = subprocess.Popen([*NEIGHBOUR, "bash", "-c", loop], cwd=tmp)
    yield
    process.kill()
    process.wait()


def test_a_race_between_check_and_use_is_lost(
    served: Standby, angus: Primary, wal: Callable[[str], bytes], swapping: None
) -> None:
    lines = []
    for round_ in range(32):
        name = angus.segments[round_ % 8]
        call = served.fetch(name, "-p", "3", host="gate")
        assert call.status == 0, call.stderr
        assert served.delivered() == wal(name)
        lines += call.lines
    assert any("spool" in line for line in lines), "he was noticed"
