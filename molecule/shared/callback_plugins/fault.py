"""Run a command after the first change that a task makes, to cause a fault then.

`kill -9 $PPID` ends the run there, as a power cut at the controller would.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

from ansible.plugins.callback import CallbackBase  # type: ignore[import-untyped]

DOCUMENTATION = """
name: fault
type: notification
short_description: Run a command after the first change
description:
  - Runs the shell command in C(LAB_FAULT) after the first change by a task whose name matches C(LAB_FAULT_AFTER).
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Run the command once."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "fault"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.command = os.environ["LAB_FAULT"]
        self.after = re.compile(os.environ.get("LAB_FAULT_AFTER", ""))

    def v2_runner_on_ok(self, result: Any) -> None:
        if self.command and result.is_changed() and self.after.search(result.task.get_name()):
            command, self.command = self.command, ""
            subprocess.run(["/bin/sh", "-c", command], check=True)

    # Between two items of a loop as well.
    v2_runner_item_on_ok = v2_runner_on_ok
