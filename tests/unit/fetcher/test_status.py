import json
import re
from pathlib import Path

import pytest
from walbasin import policy
from walbasin.fetcher import gap, status
from walbasin.fetcher.gap import Gap
from walbasin.fetcher.status import LastTest, Status
from walbasin.fetcher.timeline_guard import Abandoned
from walbasin.prefetch.counters import Counters

ONE, TWO = "000000010000000000000001", "000000010000000000000002"
NOW = 1_800_000_000.0


def a_status(**changes: object) -> Status:
    counters = Counters()
    counters.count_delivered(ONE, 16 << 20, was_ready=False, seconds=2.0)
    counters.count_reply(TWO, policy.UNKNOWN, "no route to host", 1.0)
    counters.last_restored = counters.last_error_time = NOW - 30
    test = LastTest(NOW - 7200, 0.5, "", "1.0")
    whole = Status(
        barman_host="barman",
        server="angus",
        is_recovering=True,
        is_running=True,
        spool=[ONE, TWO],
        free_segments=40,
        counters=counters,
        test=test,
        gap=Gap(),
        abandoned=Abandoned(),
    )
    return whole._replace(**changes)  # type: ignore[arg-type]


def test_plain_text() -> None:
    text = status.plain(a_status(), NOW)
    for words in (
        "angus from barman",
        "1 segments, 16 MiB; 0 were ready",
        "3.0 s",
        f"{ONE}, 30 s ago",
        f"1 unknown; 30 s ago: {TWO}: no route to host",
        f"2 segments, {ONE} to {TWO}; room for 40 more",
        "ok, through barman-wal-gate 1.0, 2 h ago, in 0.5 s",
    ):
        assert words in text


def test_plain_text_without_calls() -> None:
    text = status.plain(
        a_status(is_recovering=False, is_running=False, spool=[], counters=Counters(), test=LastTest()), NOW
    )
    assert "not recovering" in text
    assert "never run" in text
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (172800, "2 d"), (-5, "0 s")]
)
def test_age(seconds: int, words: str) -> None:
    assert f", {words} ago, in" in status.plain(a_status(test=LastTest(NOW - seconds, 0.5, "")), NOW)


def test_failed_test() -> None:
    assert "the key was refused, 2 min ago, in" in status.plain(
        a_status(test=LastTest(NOW - 120, 0.5, "the key was refused")), NOW
    )


def test_last_test_without_gate() -> None:
    assert "ok, but through no gate" in status.plain(a_status(test=LastTest(NOW, 0.5, "", "")), NOW)


GAP = Gap(NOW - 120, TWO, "000000010000000000000004", "000000010000000000000009")


@pytest.mark.parametrize(
    ("missing", "newest", "expected"),
    [
        (TWO, "", True),
        (TWO, ONE, True),
        (TWO, TWO, False),
        (TWO, "000000020000000000000001", True),
        ("00000002.history", TWO, True),
        ("00000002.history", "000000020000000000000001", False),
        ("", ONE, False),
    ],
)
def test_gap_still_ahead(missing: str, newest: str, expected: bool) -> None:
    assert bool(gap.still_ahead(GAP._replace(missing=missing), newest).missing) is expected


def test_gap_told() -> None:
    with_gap = a_status(gap=GAP)
    assert f"{TWO} is not in the archive, {GAP.later} is; seen 2 min ago" in status.plain(with_gap, NOW)
    assert json.loads(status.as_json(with_gap, NOW))["gap"]["missing"] == TWO
    assert 'walbasin_archive_gap{barman="barman",server="angus"} 1' in status.prometheus(with_gap, NOW)
    assert json.loads(status.as_json(a_status(), NOW))["gap"] is None
    assert 'walbasin_archive_gap{barman="barman",server="angus"} 0' in status.prometheus(a_status(), NOW)


def test_abandoned_timeline_told() -> None:
    abandoned = Abandoned(NOW - 120, 2, 0x4000148, 0x9000000, withheld=3)
    after, words = (
        a_status(abandoned=abandoned),
        "timeline 2, which left this server's history at 0/4000148, before 0/9000000",
    )
    assert words in status.plain(after, NOW)
    assert words in json.loads(status.as_json(after, NOW))["abandoned"]["description"]
    assert json.loads(status.as_json(a_status(), NOW))["abandoned"] is None
    labels = '{barman="barman",server="angus"}'
    assert f"walbasin_abandoned_timeline{labels} 2\n" in status.prometheus(after, NOW)
    assert f"walbasin_withheld_histories_total{labels} 3\n" in status.prometheus(after, NOW)


def test_several_hosts() -> None:
    found = a_status(barman_host="barman,barman2", hosts={"barman": "", "barman2": "it is down"})
    text = status.plain(found, NOW)
    for words in ("angus from barman, barman2", "barman: ok", "barman2: it is down"):
        assert words in text
    assert json.loads(status.as_json(found, NOW))["hosts"] == {"barman": "", "barman2": "it is down"}
    metrics = status.prometheus(found, NOW)
    for host, value in (("barman", 1), ("barman2", 0)):
        assert f'walbasin_host_success{{barman="barman,barman2",server="angus",host="{host}"}} {value}' in metrics
    assert "host_success" not in status.prometheus(a_status(), NOW)


def test_json() -> None:
    found = json.loads(status.as_json(a_status(), NOW))
    assert found["counters"]["restored"] == 1
    assert found["counters"]["errors"]["unknown"] == 1
    assert found["test"] == {**LastTest(NOW - 7200, 0.5, "", "1.0")._asdict(), "is_disproved": False}
    assert found["spool"] == [ONE, TWO]


# One line of https://prometheus.io/docs/instrumenting/exposition_formats.
SAMPLE = re.compile(r'walbasin_[a-z_]+\{barman="(\\.|[^"\\])*",server="angus"(,kind="[a-z_]+")?\} [0-9.e+]+')


def test_metrics() -> None:
    lines = status.prometheus(a_status(barman_host='bar"man\\'), NOW).splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples)
    assert 'walbasin_errors_total{barman="bar\\"man\\\\",server="angus",kind="unknown"} 1' in samples
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert described == {line.partition("{")[0] for line in samples}


@pytest.mark.parametrize(
    ("test", "success"), [(LastTest(), 0), (LastTest(NOW, 0.5, ""), 1), (LastTest(NOW, 0.5, "the key was refused"), 0)]
)
def test_success_metric(test: LastTest, success: int) -> None:
    assert f'walbasin_test_success{{barman="barman",server="angus"}} {success}' in status.prometheus(
        a_status(test=test), NOW
    )


# The counters of a_status say that a segment was restored 30 seconds ago.
@pytest.mark.parametrize(
    ("test", "is_disproved"),
    [
        (LastTest(NOW - 60, 5, "no route to host"), True),
        (LastTest(NOW - 60, 29, "no route to host"), True),
        (LastTest(NOW - 60, 31, "no route to host"), False),
        (LastTest(NOW - 10, 5, "no route to host"), False),
        (LastTest(NOW - 60, 5, "it has no restore_command", is_lasting=True), False),
        (LastTest(NOW - 60, 5), False),
        (LastTest(), False),
    ],
)
def test_failed_test_disproved(test: LastTest, is_disproved: bool) -> None:
    after = a_status(test=test)
    assert json.loads(status.as_json(after, NOW))["test"]["is_disproved"] is is_disproved
    assert ("; a segment was restored since" in status.plain(after, NOW)) is is_disproved
    is_well = is_disproved or (test.time > 0 and not test.error)
    assert f'walbasin_test_success{{barman="barman",server="angus"}} {int(is_well)}' in status.prometheus(after, NOW)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": 3}', '{"time": 3, "seconds": 1, "error": null}'])
def test_unreadable_last_test(text: str) -> None:
    assert status.parse_test(text) == LastTest()


MONITORING = Path(__file__).parents[3] / "files" / "monitoring"


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_metrics_of_alerts_and_dashboard(name: str) -> None:
    exported = set(re.findall(r"^# TYPE (\S+)", status.prometheus(a_status(hosts={"barman": ""}), NOW), re.MULTILINE))
    used = set(re.findall(r"\bwalbasin_[a-z]\w+", (MONITORING / name).read_text())) - {"walbasin_metrics"}
    assert used
    assert used <= exported
