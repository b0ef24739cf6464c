"""Feed -t with what a host may say on stderr."""

import time

from walbasin.fetcher.selftest import LONGEST_LINE, StderrReader

SSH = """debug1: Connection established.
debug1: Host '[127.0.0.1]:22' is known and matches the ED25519 host key.
Authenticated to 127.0.0.1 ([127.0.0.1]:22) using "publickey".
"""
GATE = "barman-wal-gate 0.1.0 serves angus\n"


def read(text: str, size: int) -> StderrReader:
    reader = StderrReader(time.monotonic())
    for start in range(0, len(text), size):
        reader.add(text[start : start + size])
    return reader


def test_steps_in_any_pieces() -> None:
    for size in (1, 7, 1000):
        reader = read(SSH + GATE, size)
        assert [(step, word) for step, _, word in reader.steps] == [
            ("connection", "connection established"),
            ("host key", "ed25519"),
            ("key", "publickey"),
        ]
        assert reader.gate == ("0.1.0", "angus")


def test_host_that_only_talks() -> None:
    """Keep little, and read each byte once."""
    started = time.process_time()
    for noise in ("x" * (8 << 20), "a line\n" * (1 << 20)):
        reader = read(SSH + noise, 4096)
        assert len(reader.steps) == 3
        assert len(reader._rest) <= LONGEST_LINE
    assert time.process_time() - started < 20
