"""Have a browser draw a page, cut to its content.

Called as picture.py PAGE PICTURE WIDTH, the width of the window in pixels. A page that
needs more is drawn as wide as it is.

The browser's own --screenshot is always as high as the window. Here it is driven over a
pipe instead, which is asked for the size of the content first:
https://chromedevtools.github.io/devtools-protocol.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

SCALE = 1.5
# Chromium reads requests from descriptor 3 and writes replies to 4.
COMMAND = """
exec chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --remote-debugging-pipe --user-data-dir="$1" \
    3<&"$2" 4>&"$3" >/dev/null 2>&1
"""
LOADED = "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"


class Browser:
    """A browser that lives as long as the block."""

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory()
        requests, self._requests = os.pipe()
        replies, other_end = os.pipe()
        self._process = subprocess.Popen(
            ["sh", "-c", COMMAND, "sh", self._profile.name, str(requests), str(other_end)],
            pass_fds=(requests, other_end),
        )
        os.close(requests)
        os.close(other_end)
        self._replies = os.fdopen(replies, "rb")
        self._count = 0
        self._session: dict[str, str] = {}
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._replies.close()
        os.close(self._requests)
        self._profile.cleanup()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a request, and return its result.

        Raises SystemExit when the browser ends or refuses.
        """
        self._count += 1
        request = {"id": self._count, "method": method, "params": parameters, **self._session}
        os.write(self._requests, json.dumps(request).encode() + b"\0")
        # Skip the events: nothing here needs them.
        while (reply := self._read()).get("id") != self._count:
            pass
        if "error" in reply:
            sys.exit(f"chromium refuses {method}: {reply['error']['message']}")
        result: dict[str, Any] = reply["result"]
        return result

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._replies.read(1)) != b"\0":
            if not byte:
                sys.exit("chromium has ended")
            message += byte
        parsed: dict[str, Any] = json.loads(message)
        return parsed


def draw(page: Path, picture: Path, width: int) -> None:
    """Draw the page to a PNG file."""
    with Browser() as browser:
        window = {"width": width, "height": 1, "deviceScaleFactor": SCALE, "mobile": False}
        browser.ask("Emulation.setDeviceMetricsOverride", **window)
        browser.ask("Page.navigate", url=page.absolute().as_uri())
        browser.ask("Runtime.evaluate", expression=LOADED, awaitPromise=True)
        content = browser.ask("Page.getLayoutMetrics")["cssContentSize"]
        drawn = browser.ask("Page.captureScreenshot", captureBeyondViewport=True, clip={**content, "scale": 1})
    picture.write_bytes(base64.b64decode(drawn["data"]))


draw(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
