import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walbasin.wal import getwal
from walbasin.wal.getwal import Refused, Request

SEGMENT = "000000010000000000000001"


# The remote commands of barman-wal-restore of Barman 1.6.1 to 3.19.1.
@pytest.mark.parametrize(
    ("remote_command", "request_"),
    [
        ("barman get-wal --test 'angus' 'dummy_wal_name'", Request("angus", "dummy_wal_name", test=True)),
        (f"barman get-wal 'angus' '{SEGMENT}'", Request("angus", SEGMENT)),
        (f"barman get-wal --peek '8' 'angus' '{SEGMENT}'", Request("angus", SEGMENT, peek=8)),
        (f"barman get-wal --gzip 'angus' '{SEGMENT}'", Request("angus", SEGMENT, compression="gzip")),
        (f"barman get-wal --bzip2 'angus' '{SEGMENT}'", Request("angus", SEGMENT, compression="bzip2")),
        (f"barman get-wal --partial 'angus' '{SEGMENT}'", Request("angus", SEGMENT, partial=True)),
        (
            f"barman get-wal --gzip --partial 'angus' '{SEGMENT}'",
            Request("angus", SEGMENT, compression="gzip", partial=True),
        ),
        (
            "barman get-wal --keep-compression 'angus' '00000002.history'",
            Request("angus", "00000002.history", keep_compression=True),
        ),
        (
            f"barman --config /etc/b2.conf get-wal 'angus' '{SEGMENT}'",
            Request("angus", SEGMENT, config="/etc/b2.conf"),
        ),
        ("barman get-wal angus 00000002.history", Request("angus", "00000002.history")),
    ],
)
def test_released_client_commands(remote_command: str, request_: Request) -> None:
    assert getwal.parse(remote_command) == request_


@pytest.mark.parametrize(
    "remote_command",
    [
        "",
        " ",
        "barman",
        "barman get-wal",
        "barman get-wal angus",
        f"get-wal angus {SEGMENT}",
        "barman show-servers all",
        "barman delete angus latest",
        "barman put-wal angus",
        f"barman --config get-wal angus {SEGMENT}",
        f"barman --format json get-wal angus {SEGMENT}",
        f"barman -c /etc/b2.conf get-wal angus {SEGMENT}",
        f"/usr/bin/barman get-wal angus {SEGMENT}",
        f"barman2 get-wal angus {SEGMENT}",
        # for a shell
        "sh -i",
        "bash -c 'barman get-wal angus'",
        f"barman get-wal angus {SEGMENT}; id",
        f"barman get-wal angus {SEGMENT};id",
        f"barman get-wal angus {SEGMENT} && id",
        f"barman get-wal angus {SEGMENT} | sh",
        f"barman get-wal angus {SEGMENT} > /tmp/x",
        f"barman get-wal angus $(id) {SEGMENT}",
        "barman get-wal angus $(id)",
        "barman get-wal angus `id`",
        f"barman get-wal 'angus {SEGMENT}",
        f'barman get-wal "angus {SEGMENT}',
        f"barman get-wal angus {SEGMENT}\\",
        f"barman get-wal angus {SEGMENT}\nid",
        f"id\nbarman get-wal angus {SEGMENT}",
        f"barman get-wal angus {SEGMENT}\r",
        f"barman get-wal angus {SEGMENT}\0",
        f"barman get-wal angus {SEGMENT}\x1b[2J",
        # options that write, list, or are of no released client
        f"barman get-wal -o /var/lib/barman angus {SEGMENT}",
        f"barman get-wal --output-directory /tmp angus {SEGMENT}",
        f"barman get-wal --output-directory=/tmp angus {SEGMENT}",
        f"barman get-wal -P angus {SEGMENT}",
        f"barman get-wal --partial --partial angus {SEGMENT}",
        f"barman get-wal --partial --gzip angus {SEGMENT}",
        f"barman get-wal --gzip --bzip2 angus {SEGMENT}",
        f"barman get-wal --peek -1 angus {SEGMENT}",
        f"barman get-wal --peek 0 angus {SEGMENT}",
        f"barman get-wal --peek 1025 angus {SEGMENT}",
        f"barman get-wal --peek 8x angus {SEGMENT}",
        f"barman get-wal --peek ² angus {SEGMENT}",
        f"barman get-wal --peek angus {SEGMENT}",
        f"barman get-wal --peek=8 angus {SEGMENT}",
        "barman get-wal --peek 8",
        f"barman get-wal -- angus {SEGMENT}",
        f"barman get-wal --help {SEGMENT}",
        # names that are no WAL
        "barman get-wal angus ../../../etc/passwd",
        f"barman get-wal angus ../{SEGMENT}",
        f"barman get-wal angus {SEGMENT}/../x",
        "barman get-wal angus 00000001000000000000000",
        f"barman get-wal angus {SEGMENT}.partial",
        f"barman get-wal angus {SEGMENT.replace('1', 'x')}",
        "barman get-wal angus 00000002.history.gz",
        "barman get-wal angus dummy_wal_name",
        "barman get-wal angus --test",
        f"barman get-wal angus '' {SEGMENT}",
        f"barman get-wal angus berta {SEGMENT}",
        f"barman get-wal --test angus {SEGMENT}" + " " * 5000,
    ],
)
def test_refused_commands(remote_command: str) -> None:
    with pytest.raises(Refused):
        getwal.parse(remote_command)


requests = st.builds(
    Request,
    server=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1).filter(
        lambda name: name.isprintable() and not name.startswith("-")
    ),
    wal_name=st.from_regex(r"[0-9A-F]{24}|[0-9A-F]{8}\.history", fullmatch=True),
    config=st.sampled_from(["", "/etc/barman.conf", "/etc/my barman's.conf", "/etc/b;rm -rf $HOME.conf"]),
    test=st.booleans(),
    peek=st.integers(0, getwal.LARGEST_PEEK),
    compression=st.sampled_from(["", *getwal.COMPRESSIONS]),
    keep_compression=st.booleans(),
    partial=st.booleans(),
)


@given(requests)
def test_round_trip(request_: Request) -> None:
    assert getwal.parse(request_.command_line()) == request_


@given(requests)
def test_shell_words(request_: Request) -> None:
    assert shlex.split(request_.command_line()) == ["barman", *getwal.arguments(request_)]


@given(st.text())
def test_arbitrary_text(remote_command: str) -> None:
    try:
        request_ = getwal.parse(remote_command)
    except Refused:
        return
    assert getwal.parse(request_.command_line()) == request_
