import pytest
from hypothesis import given
from hypothesis import strategies as st
from walbasin.wal import getwal, protocol
from walbasin.wal.protocol import ListQuery, Opening

WORD = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=20)


@given(WORD.filter(lambda text: not text.startswith("-")), st.sampled_from(["", *protocol.COMPRESSIONS]), WORD)
def test_opening_round_trip(server: str, compression: str, config: str) -> None:
    opening = Opening(server, ("gzip", "zstd"), compression, config)
    assert protocol.is_ours(protocol.opening_line(opening))
    assert protocol.parse_command(protocol.opening_line(opening)) == opening


@given(WORD.filter(lambda text: not text.startswith("-")), WORD)
def test_list_query_round_trip(server: str, config: str) -> None:
    query = ListQuery(server, config)
    assert protocol.is_ours(query.command_line())
    assert protocol.parse_command(query.command_line()) == query


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("barman-wal-gate 2 angus gzip '' ''", "protocol 2"),
        ("barman-wal-gate 1 angus gzip", "not a command line"),
        ("barman-wal-gate 1 angus gzip '' '' more", "not a command line"),
        ("barman-wal-gate 1 angus gzip lzma ''", "no compression 'lzma'"),
        ("barman-wal-gate 1 -c gzip '' ''", "no server is called '-c'"),
        ("barman-wal-gate 1 list -c ''", "no server is called '-c'"),
        ("barman-wal-gate 1 remove angus ''", "'remove' is not served"),
        ("barman-wal-gate 1 'angus gzip '' ''", "no closing quotation"),
        ("barman-wal-gate 1 angus\ngzip '' ''", "characters"),
    ],
)
def test_refused_command_lines(line: str, reason: str) -> None:
    with pytest.raises(getwal.Refused, match=reason):
        protocol.parse_command(line)


@pytest.mark.parametrize("name", ["000000010000000000000001", "00000002.history"])
def test_request(name: str) -> None:
    assert protocol.parse_request(protocol.request_line(name).rstrip(b"\n")) == name


@pytest.mark.parametrize(
    "line", [b"", b"../../etc/passwd", b"000000010000000000000001.partial", b"\xff\x00", b"pg_hba"]
)
def test_refused_requests(line: bytes) -> None:
    with pytest.raises(getwal.Refused, match="no name of a WAL"):
        protocol.parse_request(line)
