"""Fetch from archives that only Barman itself can decompress."""

import subprocess
from collections.abc import Callable

import pytest

from tests.support.barman_host import CUSTOM, CUSTOM_FILTER, BarmanHost, both_hosts
from tests.support.standby import Standby

from .conftest import Primary


@pytest.fixture
def custom(barman: BarmanHost, angus: Primary, name: str, wal: Callable[[str], bytes]) -> str:
    """Return a server whose archive is compressed with a filter of its own."""
    barman.add_server(name, settings=CUSTOM)
    for file in angus.segments:
        done = subprocess.run(CUSTOM_FILTER, shell=True, input=wal(file), stdout=subprocess.PIPE, check=True)
        barman.put(name, file, done.stdout)
    return name


@both_hosts
def test_custom_compression(
    served: Standby, angus: Primary, custom: str, wal: Callable[[str], bytes], host: str
) -> None:
    for file in angus.segments[:3]:
        assert served.fetch(file, "-p", "4", host=host, server=custom).status == 0
        assert served.delivered() == wal(file)


def test_side_by_side(served: Standby, angus: Primary, barman: BarmanHost, custom: str) -> None:
    """Bring what comes next, although Barman is slow with the segment before it."""
    first, second, third, slow, *others = angus.segments[:8]
    barman.hold(slow)
    for file in (first, second, third):
        assert served.fetch(file, "-p", "5", host="gate", server=custom).status == 0
    served.wait_for_spooled(*others[:3])
    assert slow not in served.spooled()
    barman.calm()
    served.wait_for_spooled(slow)
