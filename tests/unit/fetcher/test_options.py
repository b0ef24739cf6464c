import pytest
from walbasin import VERSION, policy
from walbasin.fetcher.options import UsageError, parse

SEGMENT = "000000010000000000000001"
FOUR = ["barman", "angus", SEGMENT, "pg_wal/RECOVERYXLOG"]


def test_classic_options() -> None:
    options = parse(["-p", "8", "-s", "10", *FOUR])
    assert (options.parallel, options.sleep) == (8, 10)
    assert (options.barman_host, options.server_name) == ("barman", "angus")
    assert (options.wal_name, options.wal_dest) == (SEGMENT, "pg_wal/RECOVERYXLOG")


def test_stock_defaults() -> None:
    options = parse(FOUR)
    assert (options.user, options.sleep, options.parallel, options.port) == ("barman", 0, 0, None)
    assert (options.compression, options.keep_compression, options.partial) == ("auto", False, False)
    assert (options.config, options.ssh_config, options.test, options.mode) == ("", None, False, None)
    assert options.spool_dir == "/var/tmp/barman-wal-restore"
    assert (options.retry, options.rate_limit) == (600, 0)


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        ("-U postgres", "user", "postgres"),
        ("--user postgres", "user", "postgres"),
        ("-s 3", "sleep", 3),
        ("--sleep 3", "sleep", 3),
        ("-p 4", "parallel", 4),
        ("--parallel 4", "parallel", 4),
        ("--parallel=4", "parallel", 4),
        ("-z", "compression", "gzip"),
        ("--gzip", "compression", "gzip"),
        ("-j", "compression", "bzip2"),
        ("--bzip2", "compression", "bzip2"),
        ("--compress gzip", "compression", "gzip"),
        ("--compress zstd", "compression", "zstd"),
        ("--compress=none", "compression", "none"),
        ("--rate-limit 20M", "rate_limit", 20_000_000),
        ("--rate-limit=64000", "rate_limit", 64_000),
        ("--rate-limit 1G", "rate_limit", 1_000_000_000),
        ("--keep-compression", "keep_compression", True),
        ("--any-timeline", "any_timeline", True),
        ("-P", "partial", True),
        ("--partial", "partial", True),
        ("-t", "test", True),
        ("--test", "test", True),
        ("-c /etc/b2.conf", "config", "/etc/b2.conf"),
        ("--config /etc/b2.conf", "config", "/etc/b2.conf"),
        ("--spool-dir /srv/spool", "spool_dir", "/srv/spool"),
        ("--port 2222", "port", 2222),
        ("--ssh-config /etc/w/ssh_config", "ssh_config", "/etc/w/ssh_config"),
        ("--mode standby", "mode", policy.STANDBY),
        ("--mode recovery", "mode", policy.RECOVERY),
        ("--retry 5", "retry", 5),
        ("--accept-passive", "accept_passive", True),
    ],
)
def test_option_before_and_behind_operands(words: str, attribute: str, value: object) -> None:
    assert getattr(parse([*words.split(), *FOUR]), attribute) == value
    assert getattr(parse([*FOUR, *words.split()]), attribute) == value


def test_several_hosts() -> None:
    assert parse(["barman,barman2", *FOUR[1:]]).barman_hosts == ("barman", "barman2")
    assert parse(FOUR).barman_hosts == ("barman",)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("", "a Barman host without a name"),
        (",", "a Barman host without a name"),
        ("barman,", "a Barman host without a name in 'barman,'"),
        (",barman", "a Barman host without a name"),
        ("barman,,barman2", "a Barman host without a name"),
        ("barman,barman2,barman", "the Barman host barman is named twice"),
        ("barman,-oProxyCommand=id", "no Barman host has a name that begins with '-'"),
        (",".join(f"barman{number}" for number in range(9)), "9 Barman hosts, and 8 is as many as there may be"),
    ],
)
def test_wrong_list_of_hosts(hosts: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        parse([hosts, *FOUR[1:]])
    assert "\n" not in str(raised.value)


def test_status_without_wal_name() -> None:
    options = parse(["--status", "--json", "barman", "angus"])
    assert (options.status, options.form, options.server_name) == (True, "json", "angus")
    assert parse(["--status", *FOUR]).form == "plain"


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        ("20m", "'20m' is no number of bytes a second, such as 20M"),
        ("fast", "'fast' is no number"),
        ("1.5M", "'1.5M' is no number"),
        ("20MB", "'20MB' is no number"),
        ("-1", "'-1' is no number"),
        ("", "'' is no number"),
        ("0", "'0' is too little: 64k a second is the least"),
        ("20", "'20' is too little"),
    ],
)
def test_wrong_rate_limit(rate: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"--rate-limit: .*{words}"):
        parse(["--rate-limit", rate, *FOUR])


@pytest.mark.parametrize(
    "words",
    [
        [],
        FOUR[:3],
        [*FOUR, "more"],
        ["-x", *FOUR],
        ["-p", "-1", *FOUR],
        ["-p", "eight", *FOUR],
        ["-s", "1.5", *FOUR],
        ["--port", "ssh", *FOUR],
        ["--mode", "primary", *FOUR],
        ["--retry", "-5", *FOUR],
        ["-z", "-j", *FOUR],
        ["-z", "--compress", "none", *FOUR],
        ["--compress", "lzma", *FOUR],
        ["barman", "angus", "RECOVERYXLOG", "pg_wal/RECOVERYXLOG"],
        ["barman", "angus", f"{SEGMENT}.partial", "x"],
        ["barman", "angus", "%f", "%p"],
        ["--json", *FOUR],
        ["--prometheus", *FOUR],
        ["--status", "--json", "--prometheus", "barman", "angus"],
        ["--status", "barman"],
        ["--", "-oProxyCommand=id", "angus", SEGMENT, "x"],
        ["--", "barman", "-o/tmp", SEGMENT, "x"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


def test_history_file_name() -> None:
    assert parse(["barman", "angus", "00000002.history", "pg_wal/RECOVERYHISTORY"]).wal_name == "00000002.history"


def test_selftest_without_wal_name() -> None:
    assert parse(["-t", "barman", "angus", "test", "pg_wal/test"]).test


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([word])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"barman-wal-restore {VERSION}\n"


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([word])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in (
        *("--user", "--sleep", "--parallel", "--gzip", "--bzip2", "--config", "--test", "--spool-dir", "--partial"),
        *(
            "--port",
            "--keep-compression",
            "--ssh-config",
            "--mode",
            "--retry",
            "--compress",
            "--rate-limit",
            "--accept-passive",
            "BARMAN_HOST",
            "WAL_DEST",
            "200",
        ),
    ):
        assert name in text
