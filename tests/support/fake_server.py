"""Have restore_command called as a PostgreSQL server calls it, without PostgreSQL."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.processes import BECOME, PYTHON, give_folder

PROGRAM = Path(__file__).parent / "fake_postmaster.py"


class Calls(NamedTuple):
    """Hold what calls of a restore_command came to: one value for each name."""

    command: str
    names: list[str]
    seconds: list[float]
    statuses: list[int]


class Leftovers(NamedTuple):
    """Hold what calls have cost.

    cpu: seconds. orphans: how many processes outlived a call.
    """

    cpu: float
    orphans: int


class FakeServer:
    """Run a postmaster and a startup process in a data directory.

    The startup process calls restore_command: see fake_postmaster.py. What it delivers
    lies in the folder `delivered`. What the commands say is in `log`.
    """

    def __init__(self, data: Path) -> None:
        self.delivered = give_folder(data / "delivered")
        self.log = data.parent / "server.log"
        # postgres may not be able to read this repository: it can lie in root's home.
        program = Path(shutil.copy(PROGRAM, data.parent))
        program.chmod(0o644)
        with self.log.open("w") as log:
            self._postmaster = subprocess.Popen(
                [PYTHON, program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=data,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(data.parent)},
                **BECOME,
            )
        self.pid = self._postmaster.pid

    def startup_process(self) -> int:
        """Return the process id of the startup process."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())

    def begin(self, command: str, names: Sequence[str], replay: float = 0) -> None:
        """Have a command called for one name after the other, `replay` seconds apart.

        %f and %p in it mean what they mean to PostgreSQL.
        """
        self._command, self._names = command, list(names)
        self._write({"command": command, "names": self._names, "replay": replay})

    def finish(self) -> Calls:
        """Return what the calls came to that have begun."""
        reply = self._read()
        return Calls(self._command, self._names, reply["seconds"], reply["statuses"])

    def call(self, command: str, names: Sequence[str], replay: float = 0) -> Calls:
        """Have a command called, and return what that came to."""
        self.begin(command, names, replay)
        return self.finish()

    def settle(self) -> Leftovers:
        """End recovery, wait until nothing of the calls is left, and begin it anew."""
        self._write({})
        return Leftovers(**self._read())

    def end(self) -> None:
        """Stop the server."""
        self._postmaster.communicate(timeout=30)

    def _write(self, task: dict[str, Any]) -> None:
        assert self._postmaster.stdin is not None
        self._postmaster.stdin.write(json.dumps(task) + "\n")
        self._postmaster.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._postmaster.stdout is not None
        line = self._postmaster.stdout.readline()
        assert line, f"the fake server has ended: {self.log.read_text()}"
        reply: dict[str, Any] = json.loads(line)
        return reply
