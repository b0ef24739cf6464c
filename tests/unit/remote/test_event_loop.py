"""The loop looks into pipes as seldom as what comes allows."""

import sys
import time

import pytest
from walbasin.remote import ssh
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.ssh import Remote
from walbasin.wal import pipe
from walbasin.wal.getwal import Request

SLOW = "import os, time\nfor _ in range(400): os.write(1, bytes(8192)); time.sleep(0.002)"
FAST = "import os; os.write(1, bytes(1 << 19))"


@pytest.mark.parametrize(("source", "is_long"), [(SLOW, True), (FAST, False)])
def test_pauses(source: str, is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = time.sleep

    def record(seconds: float) -> None:
        pauses.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(ssh, "ssh_command", lambda *_, **__: [sys.executable, "-c", source])
    monkeypatch.setattr("time.sleep", record)
    ended: list[Exception | None] = []
    session = ssh.Session(Remote("barman"), Request("angus", ""), lambda data: None, ended.append)
    if not is_long:
        session.process.wait()  # all of it is in the pipe, however busy the machine is
    with EventLoop() as loop:
        loop.add(session)
        loop.run_until(lambda: bool(ended))
    assert ended == [None]
    assert (max(pauses) == pipe.LONGEST) == is_long
