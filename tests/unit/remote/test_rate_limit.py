import fcntl
import time
from pathlib import Path

import pytest
from walbasin.remote import ssh
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.rate_limit import BURST, QUANTUM, RateLimit
from walbasin.remote.ssh import Remote
from walbasin.wal.getwal import Request

RATE = 10_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_empty_at_first() -> None:
    limit = RateLimit(RATE, Clock())
    assert limit.refill() == QUANTUM
    assert limit.allowance() == 0


@pytest.mark.parametrize(
    ("what", "pause", "spent", "allowance", "wait"),
    [
        ("a moment", 0.1, 0, 0.1, 0),
        ("a moment, of which some is used", 0.1, 0.05, 0.05, 0),
        ("little is left", 0.1, 0.09, 0.01, 0.04),
        ("all is used", 0.1, 0.1, 0, 0.05),
        ("more than there was", 0.1, 1, 0, 0.95),
        ("a long pause saves up no more than a burst", 3600, 0, BURST, 0),
    ],
)
def test_allowance(what: str, pause: float, spent: float, allowance: float, wait: float) -> None:
    """Take all values but the words as seconds of the rate."""
    clock = Clock()
    limit = RateLimit(RATE, clock)
    clock.now += pause
    limit.refill()
    limit.spend(round(spent * RATE))
    assert limit.refill() == pytest.approx(wait), what
    assert limit.allowance() == pytest.approx(allowance * RATE, abs=1), what


@pytest.mark.parametrize("rate", [64_000, RATE])
@pytest.mark.parametrize("chunk", [10_000, 1 << 20])
def test_rate_kept(rate: int, chunk: int) -> None:
    """Read for 20 seconds as the event loop does, whatever can be read at a time."""
    clock = Clock()
    limit = RateLimit(rate, clock)
    count = 0
    while clock.now < 120:
        wait = limit.refill()
        clock.now += wait or 0.001
        taken = 0 if wait else min(chunk, limit.allowance())
        limit.spend(taken)
        count += taken
    assert 0.97 * 20 * rate < count < 1.03 * 20 * rate


def test_urgent_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read what is waited for, although the others have begun before it."""
    size = 1 << 19
    (tmp_path / "file").write_bytes(bytes(size))
    monkeypatch.setattr(ssh, "ssh_command", lambda *_, **__: ["cat", str(tmp_path / "file")])
    names = [f"00000001000000000000000{number}" for number in range(1, 5)]
    read = dict.fromkeys(names, 0)
    ended: dict[str, Exception | None] = {}

    def session(name: str) -> ssh.Session:
        def on_data(data: bytes) -> None:
            read[name] += len(data)

        def on_end(error: Exception | None) -> None:
            ended[name] = error

        session = ssh.Session(Remote("barman"), Request("angus", name), on_data, on_end)
        fcntl.fcntl(session.stdout, fcntl.F_SETPIPE_SZ, size)
        session.process.wait()  # all of the file is in the pipe
        return session

    with EventLoop(2 * size) as loop:
        loop.urgent = lambda: names[-1:]
        for name in names:
            loop.add(session(name))
        started = time.monotonic()
        loop.run_until(lambda: names[-1] in ended)
        seconds = time.monotonic() - started
        assert sum(read[name] for name in names[:-1]) < size / 2
        loop.run_until(lambda: len(ended) == len(names))
    assert set(ended.values()) == {None}
    assert set(read.values()) == {size}
    # Less by what was saved up before.
    assert seconds > 0.5 - BURST
    assert time.monotonic() - started > 2 - BURST, "four files, at two a second"


def test_paused_connection_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no pause for silence that is our own."""
    (tmp_path / "file").write_bytes(bytes(300_000))
    monkeypatch.setattr(ssh, "ssh_command", lambda *_, **__: ["cat", str(tmp_path / "file")])
    monkeypatch.setattr(ssh, "SILENCE_LIMIT", 0.5)
    ended: list[Exception | None] = []
    with EventLoop(100_000) as loop:
        loop.add(ssh.Session(Remote("barman"), Request("angus", ""), lambda data: None, ended.append))
        loop.run_until(lambda: bool(ended))
    assert ended == [None]
