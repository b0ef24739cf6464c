"""A standby as the fetcher sees it: a data directory, and calls as PostgreSQL makes them."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.barman_host import BarmanHost
from tests.support.processes import ME, environment_of, give, processes, start, wait_until

DESTINATION = "pg_wal/RECOVERYXLOG"


class Call(NamedTuple):
    """What a call of the fetcher came to."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        return self.stderr.splitlines()


class Standby:
    """`data` is a PGDATA; no server runs on it."""

    def __init__(self, folder: Path, data: Path, fetcher: Path, barman: BarmanHost) -> None:
        self.folder = folder
        self.data = data
        self.fetcher = fetcher
        self.barman = barman
        self.spool = folder / "spool"
        self._started: list[subprocess.Popen[str]] = []

    def signal(self, name: str) -> None:
        """Make it a standby, or a point-in-time recovery."""
        (self.data / name).touch()
        give(self.data / name)

    def start(
        self,
        wal_name: str,
        *options: str,
        host: str = "stock",
        server: str = "angus",
        destination: str | Path = DESTINATION,
        ssh_config: str = "ssh_config",
        cwd: Path | None = None,
        as_postgres: bool = True,
        env: dict[str, str] | None = None,
    ) -> "subprocess.Popen[str]":
        command = [
            *(self.fetcher, "--ssh-config", self.barman.client / ssh_config, "--spool-dir", self.spool, "-U", ME),
            *(*options, host, server, wal_name, destination),
        ]
        environment = {"env": {**environment_of(self.data), **env}} if env else {}
        self._started.append(start(command, cwd or self.data, as_postgres, **environment))
        return self._started[-1]

    def end(self) -> None:
        """For finalizers: what a failed test left running goes."""
        for process in self._started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        # What the prefetch process does ends with the cluster.
        (self.data / "global" / "pg_control").unlink(missing_ok=True)

    def fetch(self, wal_name: str, *options: str, **where: object) -> Call:
        started = time.monotonic()
        process = self.start(wal_name, *options, **where)  # type: ignore[arg-type]
        stdout, stderr = process.communicate(timeout=120)
        return Call(process.returncode, stdout, stderr, time.monotonic() - started)

    def delivered(self, destination: str = DESTINATION) -> bytes:
        """What lies under the destination; it is taken away, as PostgreSQL does."""
        file = self.data / destination
        content = file.read_bytes()
        file.unlink()
        return content

    def pg_wal(self) -> list[str]:
        return sorted(path.name for path in (self.data / "pg_wal").iterdir())

    def spooled(self) -> list[str]:
        """The segments that are ready to be handed over."""
        return sorted(path.name for path in self.spool.rglob("0*") if path.is_file() and len(path.name) == 24)

    def wait_for_spooled(self, *names: str) -> None:
        wait_until(lambda: set(names) <= set(self.spooled()), f"{names} in the spool")

    def prefetch_process_ids(self) -> list[int]:
        """The process ids of those that lead a session of their own and are no ssh."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = str(self.spool).encode() in (path / "cmdline").read_bytes()
                if is_ours and os.getsid(int(path.name)) != os.getsid(0):
                    found.append(int(path.name))
        return found

    def prefetch_processes(self) -> list[str]:
        """The processes that go on after a call."""
        return processes([self.spool])
