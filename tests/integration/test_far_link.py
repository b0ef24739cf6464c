"""Fetch over a link that is slower than replay."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.network import Network
from tests.support.standby import Standby

from .conftest import Primary

MIB = 1 << 20
# Bytes a second.
RATE = 4_000_000


@pytest.fixture
def link(barman: BarmanHost) -> Iterator[Network]:
    """Return a slow link to the Barman host."""
    with Network(barman.port, delay=0.01, rate=RATE) as network:
        yield network


@pytest.fixture
def fetch(served: Standby, barman: BarmanHost, link: Network, wal: Callable[[str], bytes]) -> Callable[..., int]:
    """Return a function that fetches segments, and returns the MiB that came."""
    ssh_config = barman.reach_through(link.port)

    def run(names: list[str], *options: str) -> int:
        before = link.brought
        for name in names:
            call = served.fetch(name, *options, host="gate", ssh_config=ssh_config)
            assert (call.status, call.stderr) == (0, "")
            assert served.delivered() == wal(name)
        return (link.brought - before) // MIB

    return run


def test_compression_by_itself(angus: Primary, fetch: Callable[..., int]) -> None:
    """Bring the first segment faster than it could come plain, and what follows."""
    brought = fetch(angus.segments[:5], "-p", "3")
    assert brought < 2 * 16, "of 5 segments, each of 16 MiB"


@pytest.mark.parametrize("method", ["none", "gzip", "bzip2", "zstd"])
def test_compression_asked_for(angus: Primary, fetch: Callable[..., int], method: str) -> None:
    brought = fetch(angus.segments[:1], "-p", "2", "--compress", method)
    assert (brought >= 16) == (method == "none")
    assert brought < 2 or method == "none"


# --- A rate limit


@pytest.mark.parametrize("jobs", ["0", "3"])
@pytest.mark.parametrize("host", ["gate", "stock"])
def test_rate_limit(served: Standby, angus: Primary, wal: Callable[[str], bytes], host: str, jobs: str) -> None:
    seconds = 0.0
    for name in angus.segments[:2]:
        call = served.fetch(name, "-p", jobs, "--rate-limit", "4M", "--compress", "none", host=host)
        assert call.status == 0
        assert served.delivered() == wal(name)
        seconds += call.seconds
    assert seconds > 2 * 16 * MIB / RATE - 1
