"""Call the fetcher as PostgreSQL does, in a data directory."""

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
    """Hold the result of one call of the fetcher."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        return self.stderr.splitlines()


def claim(data: Path, postmaster: int, seconds: int = 0) -> None:
    """Have a process be the server of a data directory, since so many seconds.

    Nothing in the data directory itself has changed since then.
    """
    then = int(time.time()) - seconds
    file = data / "postmaster.pid"
    file.write_text(f"{postmaster}\n{data}\n{then}\n5432\n")
    give(file)
    os.utime(data, (then, then))


class Standby:
    """Hold a data directory without a server, and call the fetcher in it."""

    def __init__(self, folder: Path, data: Path, fetcher: Path, barman: BarmanHost) -> None:
        self.folder = folder
        self.data = data
        self.fetcher = fetcher
        self.barman = barman
        self.spool = folder / "spool"
        self._started: list[subprocess.Popen[str]] = []

    def signal(self, name: str) -> None:
        """Create a signal file, which decides the mode of recovery."""
        (self.data / name).touch()
        give(self.data / name)

    def make_spool(self) -> None:
        """Make the spool as the role does: -t and --status make none."""
        self.spool.mkdir(mode=0o700, exist_ok=True)
        give(self.spool)

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
        """End the processes that a failed test left running; for finalizers."""
        for process in self._started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        # The prefetch process ends when the cluster is gone.
        (self.data / "global" / "pg_control").unlink(missing_ok=True)

    def fetch(self, wal_name: str, *options: str, **where: object) -> Call:
        started = time.monotonic()
        process = self.start(wal_name, *options, **where)  # type: ignore[arg-type]
        stdout, stderr = process.communicate(timeout=120)
        return Call(process.returncode, stdout, stderr, time.monotonic() - started)

    def delivered(self, destination: str = DESTINATION) -> bytes:
        """Return the delivered file's content, and remove it, as PostgreSQL does."""
        file = self.data / destination
        content = file.read_bytes()
        file.unlink()
        return content

    def pg_wal(self) -> list[str]:
        return sorted(path.name for path in (self.data / "pg_wal").iterdir())

    def spooled(self) -> list[str]:
        """Return the names of the segments in the spool, in order."""
        return sorted(path.name for path in self.spool.rglob("0*") if path.is_file() and len(path.name) == 24)

    def wait_for_spooled(self, *names: str) -> None:
        wait_until(lambda: set(names) <= set(self.spooled()), f"{names} in the spool")

    def prefetch_process_ids(self) -> list[int]:
        """Return the ids of prefetch processes, which have a session of their own."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = str(self.spool).encode() in (path / "cmdline").read_bytes()
                if is_ours and os.getsid(int(path.name)) != os.getsid(0):
                    found.append(int(path.name))
        return found

    def prefetch_processes(self) -> list[str]:
        """Return the command lines of the processes that use the spool."""
        return processes([self.spool])
