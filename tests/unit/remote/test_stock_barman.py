import shlex

import pytest
from walbasin.remote import stock_barman
from walbasin.remote.archive import Archive
from walbasin.remote.errors import ConnectionLost, HostUnreachable, NotInArchive, RemoteError
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.ssh import Remote
from walbasin.wal.getwal import Request
from walbasin.wal.segment import InvalidWal

NAME = "0000000100000002000000A3"


def test_read_command() -> None:
    assert stock_barman.ReadSegment("/var/lib/barman/angus/wals", NAME).command_line() == (
        f"cat -- /var/lib/barman/angus/wals/0000000100000002/{NAME}"
    )


@pytest.mark.parametrize("folder", ["/it's/here", "/a b", "/$(reboot)", "/a;b"])
def test_folder_quoted(folder: str) -> None:
    assert shlex.split(stock_barman.ReadSegment(folder, NAME).command_line())[2:] == [f"{folder}/{NAME[:16]}/{NAME}"]


@pytest.mark.parametrize(
    ("was_read", "error", "expected"),
    [
        (True, NotInArchive(), True),
        (True, InvalidWal("short"), True),
        (True, RemoteError("cat failed"), True),
        (False, NotInArchive(), False),
        (False, InvalidWal("short"), False),
        (False, RemoteError("barman failed"), False),
        (False, HostUnreachable("ssh failed"), True),
        (False, ConnectionLost("the gate that there is not"), True),
    ],
)
def test_another_way(was_read: bool, error: Exception, expected: bool) -> None:
    host = stock_barman.StockBarman(
        Archive(Remote("barman"), Request("angus", ""), None), 8, EventLoop(), lambda cause: None
    )
    host._read_in_place = {NAME} if was_read else set()
    assert host.has_another_way(NAME, error) is expected
