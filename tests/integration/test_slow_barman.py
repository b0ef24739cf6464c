"""Test a Barman that computes for long before its first byte, as for a large segment.

1 GiB in bzip2 -9 takes more than a minute to decompress. Here it sleeps instead.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.processes import wait_until
from tests.support.standby import Standby

from .conftest import Primary


@pytest.fixture
def slow(barman: BarmanHost) -> Iterator[Callable[[int], None]]:
    """Return a function that has Barman wait for some seconds before each answer."""
    program = barman.folder / "bin" / "barman"
    text = program.read_text()

    def make(seconds: int) -> None:
        program.write_text(text.replace("#!/bin/sh\n", f"#!/bin/sh\nsleep {seconds}\n"))

    yield make
    program.write_text(text)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("host", ["gate", pytest.param("stock", marks=pytest.mark.matrix)])
def test_first_byte_after_silence(chris: Standby, angus: Primary, slow: Callable[[int], None], host: str) -> None:
    slow(45)
    call = chris.fetch(angus.segments[3], host=host)
    assert (call.status, call.stderr) == (0, "")


@pytest.mark.timeout(120)
def test_promotion_meanwhile(chris: Standby, angus: Primary, slow: Callable[[int], None]) -> None:
    """Hold up no promotion."""
    slow(12)
    process = chris.start(angus.segments[3], host="stock")
    time.sleep(2)
    started = time.monotonic()
    (chris.data / "promote").touch()
    wait_until(lambda: process.poll() is not None, "its end", 10)
    assert time.monotonic() - started < 5
    assert process.returncode == 2
    assert process.stderr is not None
    assert "given up, because this server is to be promoted" in process.stderr.read()
