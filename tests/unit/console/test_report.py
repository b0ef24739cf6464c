"""Test the report of a drill."""

import re

from console import report
from console.drill import Evidence, Phase, Sample
from tests.support.console_standby import COMMAND, FORBIDDEN, HOSTILE, NOW, SIZE


def evidence_of_a_drill() -> Evidence:
    samples = [
        Sample(
            moment=float(second),
            is_streaming=second < 2 or second > 8,
            replayed=(1 + second) * SIZE,
            primary=(2 + second) * SIZE,
            archived=None,
            restored=second,
        )
        for second in range(11)
    ]
    return Evidence(
        standby="chris",
        barman_server="angus",
        barman_host="barman",
        version="15.1",
        restore_command=COMMAND,
        began=NOW,
        marker="a marker",
        goal=9 * SIZE,
        segments=[],
        phases=[Phase("streaming is interrupted", 0, 2), Phase("the standby restores <b>", 2, 8)],
        samples=samples,
    )


def test_single_page_report() -> None:
    """Refer to no other file."""
    page = report.html(evidence_of_a_drill())
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "&lt;b&gt;" in page
    assert page.count("<polyline") == 2, "nothing is drawn of which nothing is known"
    assert "0/9000000" in page
    assert page.count("<circle") == 10, "one was restored before each sample but the first"


def test_points_inside_the_picture() -> None:
    evidence = evidence_of_a_drill()
    for line in report.polylines(evidence, report.Scale(evidence.samples)):
        for point in line.points.split():
            x, y = map(float, point.split(","))
            assert report.LEFT <= x <= report.WIDTH
            assert 0 <= y <= report.HEIGHT - report.BOTTOM


def test_report_of_hostile_standby() -> None:
    evidence = evidence_of_a_drill()._replace(standby=HOSTILE, restore_command=HOSTILE, segments=[HOSTILE])
    assert FORBIDDEN.search(report.html(evidence)) is None
