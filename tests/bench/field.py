"""Prepare where contests take place.

A Barman host, pgBackRest beside it, archives of WAL that pgbench wrote, and standbys.
"""

import contextlib
import filecmp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.support.barman_host import CUSTOM, BarmanHost, install, install_stock_client
from tests.support.fake_server import Calls, FakeServer, Leftovers
from tests.support.postgres import Server, programs
from tests.support.processes import ME, free_port, give, give_folder, processes, wait_until

# Kinds of archive, and what pgBackRest calls them.
KINDS = {"plain": "none", "gzip": "gz", "zstd": "zst"}
# A segment that no archive has.
ABSENT = "0000000100000000000000FF"
# -p of all who take part.
JOBS = 8
# Segments for Barman's own client: its rate is the same for each batch of JOBS, so it
# need not fetch them all.
STEADY = 2 * JOBS

PGBACKREST_HOST = """
[global]
repo1-path={repository}
log-path={folder}/log
lock-path={folder}/host-lock
log-level-file=off
log-level-console=error
compress-type={kind}
[angus]
pg1-path={primary}
"""

PGBACKREST_STANDBY = """
[global]
repo1-host=stock
repo1-host-user={user}
repo1-host-config={host_config}
cmd-ssh={ssh}
archive-async=y
archive-get-queue-max=1GiB
process-max={jobs}
compress-level-network=0
spool-path={spool}/pgbackrest
log-path={spool}/log
lock-path={spool}/lock
log-level-file=off
log-level-console=error
[angus]
pg1-path={data}
"""


class WrongResult(Exception):
    """Say what a contender did wrong: its figures mean nothing."""


class Trial(NamedTuple):
    """Hold what calls of a restore_command came to.

    seconds: one for each call. standby_cpu, host_cpu: seconds.
    """

    seconds: list[float]
    standby_cpu: float
    host_cpu: float


class Field:
    """Run the Barman host, and know its archives.

    names: the segments that are in every archive, and in the folder `local`, in order.
    compared: how many delivered segments were compared with those.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.barman = BarmanHost(folder / "barman", handshake="")  # as users have it
        self.local = folder / "local"
        self.local.mkdir(mode=0o755)
        own = give_folder(folder / "angus")
        self.base = Server(own / "base")
        self.primary = Server(own / "main")
        self.names: list[str] = []
        self.compared = 0
        self.fetcher = install(folder / "lib")
        self._standbys: list[Standby] = []

    def __enter__(self) -> "Field":
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        """End all processes.

        Raises AssertionError when one is left, unless another error is on its way.
        """
        for standby in self._standbys:
            standby.end()
        self.barman.end()
        with contextlib.nullcontext() if error is None else contextlib.suppress(AssertionError):
            wait_until(lambda: not processes([self.folder]), "the end of all processes")

    def prepare(self, segments: int) -> None:
        """Fill the archives with at least so many segments."""
        self.barman.start()
        self.names = self._write(segments)
        for kind in KINDS:
            if kind != "plain":
                self._add_archive(kind)
            self._add_repository(kind)

    def _write(self, count: int) -> list[str]:
        """Make a base backup, and archive at least `count` full segments after it.

        Returns their names.
        """
        self.barman.add_server("angus")
        give(self.barman.home / "angus" / "incoming")
        own, server = self.primary.data.parent, self.primary
        server.port = self.barman.primary_port
        server.create()
        server.configure(
            archive_mode="on",
            archive_command=self.barman.archive_command("angus", own),
            max_wal_size="4GB",
            synchronous_commit="off",
        )
        server.start()
        try:
            connection = ["-h", "127.0.0.1", "-p", str(server.port)]
            server.program("pgbench", "-i", "-q", "-s", "30", *connection)
            server.program("pg_basebackup", "-D", self.base.data, *connection, "-X", "none", "-c", "fast", "--no-sync")
            first = re.findall(r"[0-9A-F]{24}", (self.base.data / "backup_label").read_text())[0]
            names = self._load(first, count)
            server.stop()
            return names
        finally:
            server.end()

    def _load(self, first: str, count: int) -> list[str]:
        """Archive at least `count` segments from `first` on, by pgbench.

        The primary runs. Returns their names.
        """
        server = self.primary
        incoming = self.barman.home / "angus" / "incoming"
        connection = ["-h", "127.0.0.1", "-p", str(server.port)]
        while sum(path.name >= first for path in incoming.iterdir()) < count:
            server.program("pgbench", "-n", "-N", "-M", "prepared", "-c", "4", "-t", "5000", *connection)
            # Have pages written whole again, as in a database larger than ours.
            server.sql("CHECKPOINT")
        last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
        wait_until(lambda: server.sql("SELECT last_archived_wal FROM pg_stat_archiver") == last, "archiving", 120)
        self.barman.run_barman("archive-wal", "angus")
        found = sorted(path for path in self._archived() if first <= path.name <= last)
        for path in found:
            Path(shutil.copy(path, self.local)).chmod(0o644)
        return [path.name for path in found]

    def _archived(self) -> list[Path]:
        """Return the segments in the plain archive."""
        return [path for path in (self.barman.home / "angus" / "wals").rglob("0*") if len(path.name) == 24]

    @contextlib.contextmanager
    def running_primary(self, segments: int) -> Iterator[str]:
        """Have the primary run, with so many more segments in the plain archive.

        Gives the name of the last. In the end they are removed.
        """
        archived = self._archived()
        self.primary.configure(archive_command=self.barman.archive_command("angus", self.primary.data.parent))
        self.primary.start()
        try:
            yield self._load(self.names[-1], segments)[-1]
        finally:
            self.primary.end()
            for path in set(self._archived()).difference(archived):
                path.unlink()
                (self.local / path.name).unlink(missing_ok=True)

    def _add_archive(self, kind: str) -> None:
        """Archive the segments once more, in Barman, with this compression."""
        self.barman.add_server(f"angus_{kind}", kind)
        for name in self.names:
            shutil.copy(self.local / name, self.barman.home / f"angus_{kind}" / "incoming")
        self.barman.run_barman("archive-wal", f"angus_{kind}")

    def add_custom_archive(self, count: int) -> None:
        """Archive the first segments once more, with a filter that is not ours."""
        self.barman.add_server("angus_custom", settings=CUSTOM)
        for name in self.names[:count]:
            shutil.copy(self.local / name, self.barman.home / "angus_custom" / "incoming")
        self.barman.run_barman("archive-wal", "angus_custom")

    def back_up(self, server: str) -> None:
        """Add a server to Barman with a backup of the primary, of some 2 GB."""
        own = self.primary.data.parent
        self.barman.add_server(
            server, port=self.primary.port, settings=f"path_prefix = {programs()}\nimmediate_checkpoint = true\n"
        )
        give(self.barman.home / server / "incoming")
        self.primary.configure(archive_command=self.barman.archive_command(server, own))
        self.primary.start()
        try:
            rows = "SELECT repeat('x', 950) FROM generate_series(1, 1500000)"
            self.primary.sql(f"CREATE TABLE more AS {rows}")
            segment = self.primary.sql("SELECT pg_walfile_name(pg_switch_wal())")
            last = "SELECT last_archived_wal FROM pg_stat_archiver"
            wait_until(lambda: self.primary.sql(last) == segment, "archiving", 120)
            self.barman.run_barman("archive-wal", server)
            self.barman.run_barman("backup", server)
        finally:
            self.primary.end()

    def _add_repository(self, kind: str) -> None:
        """Archive the segments as pgBackRest does."""
        folder = self.folder / "pgbackrest"
        for each in (folder, folder / "log", folder / "host-lock", folder / kind):
            each.mkdir(mode=0o755, exist_ok=True)
        config = folder / f"{kind}.conf"
        config.write_text(
            PGBACKREST_HOST.format(repository=folder / kind, folder=folder, kind=KINDS[kind], primary=self.primary.data)
        )
        command = ["pgbackrest", f"--config={config}", "--stanza=angus"]
        subprocess.run([*command, "--no-online", "stanza-create"], check=True)
        for name in self.names:
            subprocess.run([*command, "archive-push", self.local / name], check=True)

    def standby(self, ssh_config: str = "ssh_config") -> "Standby":
        """Return another standby, which reaches the Barman host by this ssh_config."""
        self._standbys.append(Standby(self, f"standby-{len(self._standbys)}", ssh_config))
        return self._standbys[-1]

    @contextlib.contextmanager
    def far(self, delay: float, rate: int = 0) -> Iterator["Standby"]:
        """Give a standby behind a slow network.

        delay: seconds each way. rate: bytes a second, 0 for no limit.
        """
        port = free_port()
        words = [sys.executable, "-m", "tests.support.relay", port, self.barman.port, delay, rate]
        relay = subprocess.Popen(list(map(str, words)))
        try:
            wait_until(lambda: is_listening(port), "the relay", step=0.05)
            standby = self.standby(self.barman.reach_through(port))
            yield standby
            standby.settle()
        finally:
            relay.terminate()
            relay.wait()


def is_listening(port: int) -> bool:
    """Return whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Standby:
    """Be a data directory in which a fake server calls restore_command."""

    def __init__(self, field: Field, name: str, ssh_config: str) -> None:
        self.field = field
        self.folder = give_folder(field.folder / name)
        self.data = self.folder / "main"
        self._spool = self.folder / "spool"
        self._ssh_config = ssh_config
        for each in (self.data / "global", self.data / "pg_wal", self._spool):
            each.mkdir(parents=True)
        for file in ("PG_VERSION", "global/pg_control"):
            shutil.copy(field.primary.data / file, self.data / file)
        (self.data / "standby.signal").touch()
        self._spool.chmod(0o700)
        self._stock = install_stock_client(self.folder / "stock", field.barman, ssh_config)
        give(self._spool), give(self.data)
        self._server = FakeServer(self.data)

    # The contenders' restore_commands.

    def ours(self, host: str = "gate", kind: str = "plain", options: str = f"-p {JOBS}") -> str:
        """Return that of WAL Basin."""
        server = "angus" if kind == "plain" else f"angus_{kind}"
        where = f"--ssh-config {self.field.barman.client}/{self._ssh_config} --spool-dir {self._spool} -U {ME}"
        return f"{self.field.fetcher} {where} {options} {host} {server} %f %p"

    def stock(self, kind: str = "plain") -> str:
        """Return that of Barman's own client."""
        server = "angus" if kind == "plain" else f"angus_{kind}"
        return f"{self._stock} --spool-dir {self._spool}/stock -p {JOBS} -U {ME} stock {server} %f %p"

    def pgbackrest(self, kind: str = "plain", data: Path | None = None) -> str:
        """Return that of pgBackRest."""
        config = self.folder / f"pgbackrest-{kind}.conf"
        config.write_text(
            PGBACKREST_STANDBY.format(
                user=ME,
                host_config=self.field.folder / "pgbackrest" / f"{kind}.conf",
                ssh=self.folder / "stock" / "ssh",
                spool=self._spool,
                data=data or self.data,
                jobs=JOBS,
            )
        )
        return f"pgbackrest --config={config} --stanza=angus archive-get %f %p"

    def cp(self) -> str:
        """Return one that copies from a local folder."""
        return f"cp {self.field.local}/%f %p"

    def mv(self) -> str:
        """Return one that renames. Its folder beside pg_wal is filled for one trial."""
        folder = self.folder / "beside"
        folder.mkdir(exist_ok=True)
        for name in self.field.names:
            shutil.copy(self.field.local / name, folder)
        give(folder)
        return f"mv {folder}/%f %p"

    # Trials.

    def begin(self, command: str, names: Sequence[str], replay: float = 0) -> None:
        """Have a command called for one name after the other: see FakeServer."""
        self._server.begin(command, names, replay)

    def finish(self) -> Calls:
        """Wait for the calls. Raises WrongResult when a status is not right."""
        calls = self._server.finish()
        for name, status in zip(calls.names, calls.statuses, strict=True):
            if (status == 0) != (name != ABSENT):
                raise self._wrong(f"status {status} for {name}: {calls.command}")
        return calls

    def check(self, calls: Calls) -> None:
        """Compare what was delivered, byte for byte, and remove it.

        Raises WrongResult when a segment is missing, or wrong.
        """
        wanted = {name for name in calls.names if name != ABSENT}
        delivered = {file.name for file in self._server.delivered.iterdir()}
        if delivered != wanted:
            odd = ", ".join(sorted(wanted ^ delivered))
            raise WrongResult(f"delivered or asked for, but not both: {odd}: {calls.command}")
        for name in wanted:
            file = self._server.delivered / name
            if not filecmp.cmp(file, self.field.local / name, shallow=False):
                raise WrongResult(f"{name} is not what the primary wrote: {calls.command}")
            file.unlink()
        self.field.compared += len(wanted)

    def call(self, command: str, names: Sequence[str], replay: float = 0) -> list[float]:
        """Return the seconds of each call. Raises WrongResult."""
        self.begin(command, names, replay)
        calls = self.finish()
        self.check(calls)
        return calls.seconds

    def trial(self, command: str, names: Sequence[str], replay: float = 0) -> Trial:
        """Measure calls, from nothing running to nothing running.

        Raises WrongResult, also when ours had to start more than one prefetch process.
        """
        self.settle()
        host = self.field.barman.cpu()
        seconds = self.call(command, names, replay)
        standby = self.settle()
        if command.startswith(str(self.field.fetcher)) and standby.orphans != 1:
            raise self._wrong(f"{standby.orphans} processes outlived {len(names)} calls, not one: {command}")
        return Trial(seconds, standby.cpu, self.field.barman.cpu() - host)

    def _wrong(self, what: str) -> WrongResult:
        """Return it with the last lines of the server's log."""
        return WrongResult("\n    ".join([what, *self._server.log.read_text().splitlines()[-5:]]))

    def settle(self) -> Leftovers:
        """Wait until nothing of the calls is left. Return what they have cost."""
        leftovers = self._server.settle()
        for path in self._spool.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return leftovers

    def prefetch_processes(self) -> list[int]:
        """Return the process ids of the prefetch process, and of its ssh."""
        found = Path("/proc").glob("[0-9]*/cmdline")
        return [int(path.parent.name) for path in found if _mentions(path, self._spool)]

    def end_prefetch_process(self) -> None:
        """End it, and wait until it has ended."""
        for pid in self.prefetch_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not self.prefetch_processes(), "the end of the prefetch process", step=0.02)

    def wait_for_spooled(self, names: Sequence[str]) -> None:
        """Wait until all these segments are in the spool. Raises AssertionError."""

        def missing() -> list[str]:
            return [name for name in names if not any(self._spool.rglob(name))]

        wait_until(lambda: not missing(), f"{names[0]} to {names[-1]} in the spool", step=0.02)

    def end(self) -> None:
        """Stop the server."""
        self._server.end()


def _mentions(cmdline: Path, what: Path) -> bool:
    try:
        return str(what).encode() in cmdline.read_bytes()
    except OSError:
        return False
