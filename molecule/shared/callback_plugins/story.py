"""Print the messages of the tasks tagged `story`.

Each has the seconds since the start. They go to file descriptor 3, so that the full
output of Ansible can go elsewhere.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase  # type: ignore[import-untyped]

DOCUMENTATION = """
name: story
type: notification
short_description: Tell the story of a run on file descriptor 3
description: Prints the messages of the tasks tagged C(story), and what failed.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Print the messages of the story and the errors."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "story"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.start = time.monotonic()
        self.out = os.fdopen(3, "w", buffering=1)

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.start:4.0f} s  {text}", file=self.out)

    def v2_runner_on_ok(self, result: Any) -> None:
        if "story" in result.task.tags:
            self.tell(result.result["msg"])

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if ignore_errors:
            return
        said = [str(result.result.get(key, "")).strip() for key in ("msg", "stderr", "stdout")]
        self.tell(f"FAILED on {result.host.get_name()}: {result.task.get_name()}: {' | '.join(filter(None, said))}")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self.tell(f"FAILED: {result.host.get_name()} cannot be reached: {result.result.get('msg')}")
