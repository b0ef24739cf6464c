import shlex
from types import SimpleNamespace

import pytest
from walbasin.remote import stock_barman
from walbasin.remote.archive import Archive
from walbasin.remote.ssh import Absent, Lost, Remote, Sessions, Unreachable
from walbasin.wal.getwal import Request
from walbasin.wal.segment import Invalid

NAME = "0000000100000002000000A3"


def test_a_segment_is_read_where_barman_keeps_it() -> None:
    assert stock_barman.Reading("/var/lib/barman/angus/wals", NAME).line() == (
        f"cat -- /var/lib/barman/angus/wals/0000000100000002/{NAME}"
    )


@pytest.mark.parametrize("folder", ["/it's/here", "/a b", "/$(reboot)", "/a;b"])
def test_a_folder_is_one_word_whatever_it_is_called(folder: str) -> None:
    assert shlex.split(stock_barman.Reading(folder, NAME).line())[2:] == [f"{folder}/{NAME[:16]}/{NAME}"]
    assert f"show-servers {shlex.quote(folder)} " in stock_barman.Inquiry(folder).line()


@pytest.mark.parametrize(
    ("answer", "folder"),
    [
        (b"\twals_directory: /var/lib/barman/angus/wals\n", "/var/lib/barman/angus/wals"),
        (b"wals_directory: /with a blank/wals\n", "/with a blank/wals"),
        (b"", ""),
        (b"\twals_directory: None\n", ""),
        (b"Welcome to barman\n", ""),
        (b"\twals_directory: /a\x1b[2J\n", ""),
    ],
)
def test_what_barman_says_is_a_path_or_nothing(answer: bytes, folder: str) -> None:
    assert stock_barman.folder_in(answer) == folder


@pytest.mark.parametrize(
    ("was_read", "error", "expected"),
    [
        (True, Absent(), True),
        (True, Invalid("short"), True),
        (True, Unreachable("cat failed"), True),
        (False, Absent(), False),
        (False, Invalid("short"), False),
        (False, Unreachable("barman failed"), False),
        (False, Unreachable("ssh failed", is_connection=True), True),
        (False, Lost("the gate that there is not"), True),
    ],
)
def test_what_was_read_in_vain_barman_is_asked_for(was_read: bool, error: Exception, expected: bool) -> None:
    host = stock_barman.StockHost(
        Archive(Remote("barman"), Request("angus", ""), None), 8, Sessions(), lambda cause: None
    )
    receiver = SimpleNamespace(name=NAME, was_read=was_read, write=bytes, end=print)
    assert host.has_another_way(receiver, error) is expected
