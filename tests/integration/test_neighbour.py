"""Test attacks of another user on the standby's host: every user can write /var/tmp."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import IS_ROOT, give, run, wait_until
from tests.support.standby import Standby

from .conftest import Primary

pytestmark = pytest.mark.skipif(not IS_ROOT, reason="only root may act as another user")
NEIGHBOUR = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


def as_neighbour(script: str, folder: Path) -> None:
    """Run a shell script as the other user."""
    run([*NEIGHBOUR, "sh", "-ec", script], folder, as_postgres=False)


@pytest.fixture
def tmp(served: Standby, workdir: Path) -> Path:
    """Make a folder like /var/tmp, and have the spool in it."""
    folder = workdir / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    served.spool = folder / "barman-wal-restore"
    return folder


def planting_script(served: Standby, angus: Primary, tmp: Path) -> str:
    """Return a script that makes `made`: a spool like ours, with wrong segments."""
    original = tmp.parent / "original"
    spool, served.spool = served.spool, original
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    (link,) = [path for path in original.iterdir() if path.is_symlink()]
    folder = link.resolve().relative_to(original)
    served.spool = spool
    lines = [f"mkdir -p 'made/{folder}'", f"ln -s '{folder}' 'made/{link.name}'"]
    lines += [f"echo wrong >'made/{folder}/{name}'" for name in angus.segments]
    return "\n".join([*lines, "chmod -R a+rX made"])


def assert_spool_not_used(served: Standby, names: list[str], wal: Callable[[str], bytes]) -> None:
    """Assert that a planted spool is reported in one line, and not used."""
    for name in names:
        call = served.fetch(name, "-p", "3", host="gate")
        assert (call.status, len(call.lines)) == (0, 1)
        assert "barman-wal-restore" in call.stderr
        assert "fetching without it" in call.stderr
        assert served.delivered() == wal(name)


@pytest.mark.parametrize("mode", ["0700", "0755", "0777"])
def test_planted_spool(served: Standby, angus: Primary, tmp: Path, wal: Callable[[str], bytes], mode: str) -> None:
    as_neighbour(planting_script(served, angus, tmp), tmp)
    as_neighbour(f"mv made barman-wal-restore; chmod {mode} barman-wal-restore", tmp)
    assert_spool_not_used(served, angus.segments[3:6], wal)


@pytest.mark.parametrize("target", ["a folder of his", "a folder of postgres's"])
def test_planted_link(served: Standby, angus: Primary, tmp: Path, wal: Callable[[str], bytes], target: str) -> None:
    as_neighbour(planting_script(served, angus, tmp), tmp)
    as_neighbour(f"ln -s {'made' if target == 'a folder of his' else tmp.parent / 'original'} barman-wal-restore", tmp)
    assert_spool_not_used(served, angus.segments[4:6], wal)


def test_planted_file_in_our_spool(served: Standby, angus: Primary, tmp: Path) -> None:
    """Prove that the tests above can fail: the planted files lie where we look."""
    as_neighbour(planting_script(served, angus, tmp), tmp)
    (tmp / "made").rename(served.spool)
    give(served.spool)
    run(["chmod", "-R", "go=", served.spool], tmp, as_postgres=False)
    assert served.fetch(angus.segments[4], "-p", "3", host="gate").status == 0
    assert served.delivered() == b"wrong\n"


def test_spool_opened_while_in_use(served: Standby, angus: Primary, tmp: Path, wal: Callable[[str], bytes]) -> None:
    """Let nothing through that others put into a spool of ours that is open to them.

    The shell sees no more than the owner. So the prefetch process looks, every second.
    """
    assert served.fetch(angus.segments[2], "-p", "3", host="gate").status == 0
    served.wait_for_spooled(*angus.segments[3:5])
    (link,) = [path for path in served.spool.iterdir() if path.is_symlink()]
    folder = link.resolve()
    run(["chmod", "-R", "a+rwX", served.spool], tmp, as_postgres=False)
    # He may come too late.
    planted = folder / angus.segments[3]
    as_neighbour(f"{{ mv {planted} {planted}.gone && echo wrong >{planted}; }} || true", tmp)
    wait_until(lambda: not served.prefetch_process_ids(), "the end of the prefetch process")
    assert served.spooled() == []
    with pytest.raises(AssertionError, match="Permission denied"):
        as_neighbour(f"echo wrong >{planted}", tmp)
    assert_spool_not_used(served, angus.segments[3:6], wal)
    served.spool.chmod(0o700)
    call = served.fetch(angus.segments[3], "-p", "3", host="gate")
    assert (call.status, call.stderr) == (0, "")


@pytest.fixture
def swapping(served: Standby, angus: Primary, tmp: Path) -> Iterator[None]:
    """Have the other user own the spool's parent folder, and exchange the spool."""
    script = planting_script(served, angus, tmp)
    run(["chown", "nobody", tmp], tmp, as_postgres=False)
    as_neighbour(script, tmp)
    # The loop moves our spool away, puts a folder of his in its place, then a link to
    # that folder, and moves ours back.
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


def test_check_and_use_race(served: Standby, angus: Primary, wal: Callable[[str], bytes], swapping: None) -> None:
    lines = []
    for round_ in range(32):
        name = angus.segments[round_ % 8]
        call = served.fetch(name, "-p", "3", host="gate")
        assert call.status == 0, call.stderr
        assert served.delivered() == wal(name)
        lines += call.lines
    assert any("spool" in line for line in lines), "he was noticed"
