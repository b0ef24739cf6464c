"""Test a drill's report as a browser lays it out."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from console import report
from console.drill import Evidence, Phase, Sample

SEGMENT = 16 << 20
# Write what a person would see into an element of its own. A legend entry is whole when
# its text is one line, and its sign stands before it in that line, less than 20 pixels
# away.
SCRIPT = """
<script>
addEventListener("load", () => {
const box = element => element.getBoundingClientRect(), all = selector => [...document.querySelectorAll(selector)];
const picture = box(document.querySelector("svg"));
const inside = all("svg polyline, svg rect, svg text, svg circle").every(element => {
    const {left, right, top, bottom} = box(element);
    return Math.min(left - picture.left, picture.right - right, top - picture.top, picture.bottom - bottom) > -1;
});
const legend = all(".key").map(sign => {
    const range = document.createRange();
    range.selectNodeContents(sign.nextSibling);
    const lines = [...range.getClientRects()], {right, top, bottom} = box(sign), text = lines[0];
    return lines.length === 1 && top >= text.top && bottom <= text.bottom && Math.abs(text.left - right - 10) < 10;
});
const seen = {
    inside, legend, width: document.documentElement.scrollWidth, window: window.innerWidth,
    polylines: all("polyline").map(line => getComputedStyle(line).stroke), phases: all("svg rect").length,
    fetched: performance.getEntriesByType("resource").length, rows: all("tr").length,
};
document.body.insertAdjacentHTML("beforeend", `<pre id="seen">${JSON.stringify(seen)}</pre>`);
});
</script>
"""


def evidence() -> Evidence:
    return Evidence(
        standby="chris",
        barman_server="angus",
        barman_host="barman",
        version="15.1",
        restore_command="/usr/local/bin/barman-wal-restore --spool-dir /" + "long" * 40 + " barman angus %f %p",
        began=0.0,
        marker="a marker",
        goal=9 * SEGMENT,
        segments=[f"00000001000000000000{number:04X}" for number in range(40)],
        phases=[Phase("streaming is interrupted", 0, 2), Phase("the standby restores from Barman", 2, 8)],
        samples=[
            Sample(
                moment=float(second),
                is_streaming=second < 2 or second > 8,
                replayed=(1 + second) * SEGMENT,
                primary=(2 + second) * SEGMENT,
                archived=9 * SEGMENT,
                restored=second,
            )
            for second in range(11)
        ],
    )


@pytest.mark.parametrize("width", [500, 700, 1280])
def test_layout_in_a_browser(tmp_path: Path, width: int) -> None:
    page = tmp_path / "drill.html"
    page.write_text(report.html(evidence()) + SCRIPT)
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    dump = subprocess.run(
        [*browser, f"--window-size={width},900", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    seen = json.loads(re.findall(r'<pre id="seen">(.*)</pre>', dump.stdout)[-1])
    assert seen["inside"], "nothing is drawn outside of the picture"
    assert seen["width"] <= seen["window"], "nobody has to scroll sideways"
    assert seen["legend"] == [True] * 5, "each entry is beside its sign"
    assert len(set(seen["polylines"])) == 3, "each line has a colour of its own"
    assert (seen["phases"], seen["rows"], seen["fetched"]) == (2, 6, 0)
