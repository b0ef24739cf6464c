"""Where the contest takes place: a Barman host, pgBackRest beside it, archives of pgbench's WAL, and standbys."""

import contextlib
import filecmp
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.barman_host import BarmanHost, install, install_stock_client
from tests.support.postgres import Server
from tests.support.processes import BECOME, ME, PYTHON, free_port, give, give_folder, processes, wait_until

HERE = Path(__file__).parent
# Kinds of archive, and what pgBackRest calls them.
KINDS = {"plain": "none", "gzip": "gz", "zstd": "zst"}
ABSENT = "0000000100000000000000FF"
JOBS = 8

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


class Trial(NamedTuple):
    """What calls of a restore_command came to. Seconds: one for each call; CPU in seconds, of both sides."""

    seconds: list[float]
    standby_cpu: float
    host_cpu: float


class Field:
    """`names` are the segments that are in every archive, and in the folder `local`, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.barman = BarmanHost(folder / "barman")
        self.local = folder / "local"
        self.local.mkdir(mode=0o755)
        own = give_folder(folder / "angus")
        self.base = Server(own / "base")
        self.primary = Server(own / "main")
        self.names: list[str] = []
        self.fetcher = install(folder / "lib")
        shutil.copy(HERE / "caller.py", folder)
        self._standbys: list[Standby] = []

    def prepare(self, segments: int) -> None:
        """segments: how many there shall be, at least."""
        self.barman.start()
        self.names = self._write(segments)
        for kind in KINDS:
            if kind != "plain":
                self._add_archive(kind)
            self._add_repository(kind)

    def _write(self, count: int) -> list[str]:
        """A base backup, and `count` full segments after it, or a few more."""
        wals = self.barman.add_server("angus")
        incoming = give(self.barman.home / "angus" / "incoming")
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
            while sum(path.name >= first for path in incoming.iterdir()) < count:
                server.program("pgbench", "-n", "-N", "-M", "prepared", "-c", "4", "-t", "5000", *connection)
                # So that pages are written whole again, as in a database that is larger than ours.
                server.sql("CHECKPOINT")
            last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
            wait_until(lambda: server.sql("SELECT last_archived_wal FROM pg_stat_archiver") == last, "archiving", 120)
            server.stop()
        finally:
            server.end()
        self.barman.run_barman("archive-wal", "angus")
        found = sorted(path for path in wals.rglob("0*") if len(path.name) == 24 and first <= path.name <= last)
        for path in found:
            Path(shutil.copy(path, self.local)).chmod(0o644)
        return [path.name for path in found]

    def _add_archive(self, kind: str) -> None:
        """The segments once more, as Barman stores them with this compression."""
        self.barman.add_server(f"angus_{kind}", kind)
        for name in self.names:
            shutil.copy(self.local / name, self.barman.home / f"angus_{kind}" / "incoming")
        self.barman.run_barman("archive-wal", f"angus_{kind}")

    def _add_repository(self, kind: str) -> None:
        """And as pgBackRest does."""
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

    def stored_size(self, kind: str) -> float:
        """Bytes of a segment in Barman's archive of this kind, on average."""
        server = "angus" if kind == "plain" else f"angus_{kind}"
        return sum(self.barman.file(server, name).stat().st_size for name in self.names) / len(self.names)

    def standby(self, ssh_config: str = "ssh_config") -> "Standby":
        """Another one, which reaches the Barman host by this ssh_config."""
        self._standbys.append(Standby(self, f"standby-{len(self._standbys)}", ssh_config))
        return self._standbys[-1]

    @contextlib.contextmanager
    def far(self, delay: float, rate: int = 0) -> Iterator["Standby"]:
        """A standby behind a network of `delay` seconds each way and `rate` bytes a second (0: no limit)."""
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

    def end(self) -> None:
        for standby in self._standbys:
            standby.end()
        self.barman.end()
        wait_until(lambda: not processes([self.folder]), "the end of everything")


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Standby:
    """A data directory without a server: another process calls restore_command in it, as a server would do it."""

    def __init__(self, field: Field, name: str, ssh_config: str) -> None:
        self.field = field
        self.folder = give_folder(field.folder / name)
        self.data = self.folder / "main"
        self._ssh_config = ssh_config
        for each in (self.data / "global", self.data / "pg_wal", self.data / "delivered", self.folder / "spool"):
            each.mkdir(parents=True)
        for file in ("PG_VERSION", "global/pg_control"):
            shutil.copy(field.primary.data / file, self.data / file)
        (self.data / "standby.signal").touch()
        (self.folder / "spool").chmod(0o700)
        self._stock = install_stock_client(self.folder / "stock", field.barman, ssh_config)
        give(self.folder / "spool"), give(self.data)
        self._caller = subprocess.Popen(
            [PYTHON, field.folder / "caller.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.data,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)},
            **BECOME,
        )
        (self.data / "postmaster.pid").write_text(f"{self._caller.pid}\n{self.data}\n1700000000\n5432\n")

    # The contenders' restore_commands.

    def ours(self, host: str = "gate", kind: str = "plain", options: str = f"-p {JOBS}") -> str:
        server = "angus" if kind == "plain" else f"angus_{kind}"
        where = f"--ssh-config {self.field.barman.client}/{self._ssh_config} --spool-dir {self.folder}/spool -U {ME}"
        return f"{self.field.fetcher} {where} {options} {host} {server} %f %p"

    def stock(self, kind: str = "plain") -> str:
        server = "angus" if kind == "plain" else f"angus_{kind}"
        return f"{self._stock} --spool-dir {self.folder}/spool/stock -p {JOBS} -U {ME} stock {server} %f %p"

    def pgbackrest(self, kind: str = "plain", data: Path | None = None) -> str:
        config = self.folder / f"pgbackrest-{kind}.conf"
        config.write_text(
            PGBACKREST_STANDBY.format(
                user=ME,
                host_config=self.field.folder / "pgbackrest" / f"{kind}.conf",
                ssh=self.folder / "stock" / "ssh",
                spool=self.folder / "spool",
                data=data or self.data,
                jobs=JOBS,
            )
        )
        return f"pgbackrest --config={config} --stanza=angus archive-get %f %p"

    def cp(self) -> str:
        return f"cp {self.field.local}/%f %p"

    def mv(self) -> str:
        """From a folder beside pg_wal, which is filled with the segments that a trial takes away."""
        folder = self.folder / "beside"
        folder.mkdir(exist_ok=True)
        for name in self.field.names:
            shutil.copy(self.field.local / name, folder)
        give(folder)
        return f"mv {folder}/%f %p"

    # Trials.

    def begin(self, command: str, names: Sequence[str], replay: float = 0) -> None:
        """Have it called, one name after the other, with `replay` seconds after each."""
        self._write({"command": command, "names": list(names), "replay": replay})

    def finish(self) -> list[float]:
        """Seconds of each call. Ends the benchmark when one of them failed."""
        task, answer = self._task, self._read()
        for name, status in zip(task["names"], answer["statuses"]):
            assert (status == 0) == (name != ABSENT), f"status {status} for {name}: {task['command']}"
        seconds: list[float] = answer["seconds"]
        return seconds

    def check(self) -> None:
        """What was delivered is right, byte for byte."""
        for file in (self.data / "delivered").iterdir():
            assert filecmp.cmp(file, self.field.local / file.name, shallow=False), f"{file.name} is wrong"
            file.unlink()

    def call(self, command: str, names: Sequence[str], replay: float = 0) -> list[float]:
        """Seconds of each call. Ends the benchmark when what was delivered is not right."""
        self.begin(command, names, replay)
        seconds = self.finish()
        self.check()
        return seconds

    def trial(self, command: str, names: Sequence[str], replay: float = 0) -> Trial:
        """From nothing running to nothing running."""
        self.settle()
        host = self.field.barman.cpu()
        seconds = self.call(command, names, replay)
        standby = self.settle()
        return Trial(seconds, standby, self.field.barman.cpu() - host)

    def settle(self) -> float:
        """Nothing of the calls before is left. The CPU that they took, in seconds."""
        self._write({})
        used: float = self._read()["cpu"]
        for path in (self.folder / "spool").iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return used

    def prefetch_processes(self) -> list[int]:
        """The process ids of what the prefetch process does."""
        found = Path("/proc").glob("[0-9]*/cmdline")
        own = [int(path.parent.name) for path in found if _mentions(path, self.folder / "spool")]
        return [pid for pid in own if pid != self._caller.pid]

    def end_prefetch_process(self) -> None:
        for pid in self.prefetch_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not self.prefetch_processes(), "the end of the prefetch process", step=0.02)

    def wait_for_spooled(self, name: str) -> None:
        wait_until(lambda: any((self.folder / "spool").rglob(name)), f"{name} in the spool", step=0.02)

    def _write(self, task: dict[str, Any]) -> None:
        assert self._caller.stdin is not None
        self._task = task
        self._caller.stdin.write(json.dumps(task) + "\n")
        self._caller.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._caller.stdout is not None
        answer: dict[str, Any] = json.loads(self._caller.stdout.readline())
        return answer

    def end(self) -> None:
        assert self._caller.stdin is not None
        self._caller.stdin.close()
        self._caller.wait(timeout=30)


def _mentions(cmdline: Path, what: Path) -> bool:
    try:
        return str(what).encode() in cmdline.read_bytes()
    except OSError:
        return False
