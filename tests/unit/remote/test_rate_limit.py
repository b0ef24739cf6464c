import time
from pathlib import Path

import pytest
from walbasin.remote import ssh
from walbasin.remote.rate_limit import BURST, RateLimit
from walbasin.remote.ssh import EventLoop, Remote
from walbasin.wal.getwal import Request

RATE = 10_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_empty_at_first() -> None:
    assert RateLimit(RATE, Clock()).allowance() == 0


@pytest.mark.parametrize(
    ("what", "pause", "spent", "allowance"),
    [
        ("a moment", 0.1, 0, RATE // 10),
        ("a moment, of which some is used", 0.1, RATE // 20, RATE // 20),
        ("all is used", 0.1, RATE // 10, 0),
        ("more than there was", 0.1, RATE, 0),
        ("a long pause saves up no more than a burst", 3600, 0, int(BURST * RATE)),
    ],
)
def test_allowance(what: str, pause: float, spent: int, allowance: int) -> None:
    clock = Clock()
    limit = RateLimit(RATE, clock)
    clock.now += pause
    limit.allowance()
    limit.spend(spent)
    assert abs(limit.allowance() - allowance) <= 1, what


@pytest.mark.parametrize("rate", [64_000, RATE, 1_000_000_000])
@pytest.mark.parametrize("chunk", [10_000, 1 << 20])
def test_rate_kept(rate: int, chunk: int) -> None:
    """Read for 20 seconds as the event loop does, whatever can be read at a time."""
    clock = Clock()
    limit = RateLimit(rate, clock)
    count = 0
    while clock.now < 120:
        wait = limit.wait()
        if wait:
            clock.now += wait
            continue
        taken = min(chunk, limit.allowance())
        limit.spend(taken)
        count += taken
        clock.now += taken / 2e9
    assert 0.97 * 20 * rate < count < 1.03 * 20 * rate


def test_urgent_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read what is waited for, although the others have begun before it."""
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(ssh, "ssh_command", lambda *_, **__: ["cat", str(tmp_path / "file")])
    names = [f"00000001000000000000000{number}" for number in range(1, 5)]
    read = dict.fromkeys(names, 0)
    ended: dict[str, Exception | None] = {}

    def session(name: str) -> ssh.Session:
        def on_data(data: bytes) -> None:
            read[name] += len(data)

        return ssh.Session(Remote("barman"), Request("angus", name), on_data, lambda error: ended.update({name: error}))

    with EventLoop(2 << 20) as loop:
        loop.urgent = lambda: names[-1:]
        for name in names:
            loop.add(session(name))
        started = time.monotonic()
        loop.run_until(lambda: names[-1] in ended)
        seconds = time.monotonic() - started
        # A pipe holds 64 KiB: where cat is late to fill it, the others have their turn.
        assert max(read[name] for name in names[:-1]) < read[names[-1]] == 1 << 20
        loop.run_until(lambda: len(ended) == len(names))
    assert set(ended.values()) == {None}
    assert set(read.values()) == {1 << 20}
    assert seconds > 0.4
    assert time.monotonic() - started > 1.9, "4 MiB at 2 MiB a second"


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
