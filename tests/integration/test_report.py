"""A drill's report, as a browser lays it out."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from console import report
from console.drill import Evidence, Phase, Sample

SEGMENT = 16 << 20
# What a person would see, told in an element of its own.
SCRIPT = """
<script>
addEventListener("load", () => {
const box = element => element.getBoundingClientRect(), all = selector => [...document.querySelectorAll(selector)];
const picture = box(document.querySelector("svg"));
const inside = all("svg polyline, svg rect, svg text, svg circle").every(element => {
    const {left, right, top, bottom} = box(element);
    return Math.min(left - picture.left, picture.right - right, top - picture.top, picture.bottom - bottom) > -1;
});
const said = {
    inside, width: document.documentElement.scrollWidth, window: window.innerWidth,
    lines: all("polyline").map(line => getComputedStyle(line).stroke), phases: all("svg rect").length,
    fetched: performance.getEntriesByType("resource").length, rows: all("tr").length,
};
document.body.insertAdjacentHTML("beforeend", `<pre id="said">${JSON.stringify(said)}</pre>`);
});
</script>
"""


@pytest.mark.parametrize("width", [500, 1280])
def test_it_is_readable_and_fetches_nothing(tmp_path: Path, width: int) -> None:
    samples = [
        Sample(
            float(second), second < 2 or second > 8, (1 + second) * SEGMENT, (2 + second) * SEGMENT, 9 * SEGMENT, second
        )
        for second in range(11)
    ]
    phases = [Phase("streaming is interrupted", 0, 2), Phase("the standby restores from Barman", 2, 8)]
    names = [f"00000001000000000000{number:04X}" for number in range(40)]
    command = "/usr/local/bin/barman-wal-restore " + "--spool-dir /" + "long" * 40 + " barman angus %f %p"
    evidence = Evidence(
        "chris", "angus", "barman", "15.1", command, 0.0, "a marker", 9 * SEGMENT, names, phases, samples
    )
    page = tmp_path / "drill.html"
    page.write_text(report.html(evidence) + SCRIPT)
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [*browser, f"--window-size={width},900", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = json.loads(re.findall(r'<pre id="said">(.*)</pre>', shown.stdout)[-1])
    assert said["inside"], "nothing is drawn outside of the picture"
    assert said["width"] <= said["window"], "nobody has to scroll sideways"
    assert len(set(said["lines"])) == 3, "each line has a colour of its own"
    assert (said["phases"], said["rows"], said["fetched"]) == (2, 6, 0)
