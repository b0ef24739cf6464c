"""make bench: how long PostgreSQL waits for WAL, ours beside Barman's own client, cp and mv, in interleaved rounds.

What counts are the ratios within one run; the same machine is twice as fast an hour later.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests import by_hand
from tests.integration.account import ME, give, processes, wait_until
from tests.integration.barman_host import BarmanHost, install, install_stock_client
from tests.integration.conftest import give_folder
from tests.integration.postgres import Server

ROUNDS = 3
SEGMENTS = 32
REPLAY = 0.1
MISSES = 20
ABSENT = "0000000100000000000000FF"


class Field:
    """A Barman host with WAL that pgbench made, a copy of that in a local folder, and a standby to fetch for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.barman = BarmanHost(folder / "barman")
        self.barman.start()
        self.local = folder / "local"
        self.local.mkdir(mode=0o755)
        self.names, self.system_identifier = self._write()
        self.fetcher = install(folder / "lib")
        self.stock = install_stock_client(folder / "stock", self.barman)
        self.data = self._data()
        self.destination = self.data / "pg_wal" / "RECOVERYXLOG"

    def _write(self) -> tuple[list[str], int]:
        self.barman.add_server("angus")
        incoming = give(self.barman.home / "angus" / "incoming")
        own = give_folder(self.folder / "angus")
        server = Server(own / "main")
        server.port = self.barman.primary_port
        server.create()
        server.configure(
            archive_mode="on", archive_command=f"cp %p {own}/unfinished && mv {own}/unfinished {incoming}/%f"
        )
        server.start()
        try:
            server.program("pgbench", "-i", "-q", "-s", str(SEGMENTS * 2), "-h", "127.0.0.1", "-p", str(server.port))
            last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
            wait_until(lambda: server.sql("SELECT last_archived_wal FROM pg_stat_archiver") == last, "archiving", 120)
            self.barman.run_barman("archive-wal", "angus")
            identifier = int(server.control("Database system identifier"))
        finally:
            server.end()
        found = sorted(path for path in (self.barman.home / "angus" / "wals").rglob("0*") if len(path.name) == 24)
        assert len(found) > SEGMENTS, f"pgbench wrote {len(found)} segments, {SEGMENTS + 1} are needed"
        for path in found[: SEGMENTS + 1]:
            Path(shutil.copy(path, self.local)).chmod(0o644)
        return [path.name for path in found[: SEGMENTS + 1]], identifier

    def _data(self) -> Path:
        data = by_hand.data_directory(self.folder / "main", 15, self.system_identifier, "standby.signal")
        (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1700000000\n5432\n")
        return give(data)

    def ours(self, host: str) -> str:
        options = f"--ssh-config {self.barman.client}/ssh_config --spool-dir {self.folder}/spool -U {ME} -p 8"
        return f"{self.fetcher} {options} {host} angus %f pg_wal/RECOVERYXLOG"

    def stocks(self) -> str:
        return f"{self.stock} --spool-dir {self.folder}/stock-spool -p 8 -U {ME} stock angus %f pg_wal/RECOVERYXLOG"

    def call(self, command: str, name: str) -> float:
        """Seconds for one restore_command, as PostgreSQL runs it. Ends the benchmark when it fails."""
        self.destination.unlink(missing_ok=True)
        started = time.monotonic()
        status = subprocess.run(
            ["sh", "-c", command.replace("%f", name)],
            cwd=self.data,
            user="postgres",
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        seconds = time.monotonic() - started
        assert status == 0 or name == ABSENT, f"status {status}: {command}"
        return seconds

    def settle(self) -> None:
        """Nothing of the run before is left."""
        self._end_background()
        (self.data / "standby.signal").touch()
        shutil.rmtree(self.folder / "stock-spool", ignore_errors=True)
        for path in (self.folder / "stock-spool", self.folder / "spool"):
            path.mkdir(mode=0o700, exist_ok=True)
            give(path)

    def end(self) -> None:
        self._end_background()
        self.barman.end()

    def _end_background(self) -> None:
        """It ends with recovery."""
        (self.data / "standby.signal").unlink(missing_ok=True)
        wait_until(lambda: not processes([self.folder / "spool"]), "the end of the background process")


def throughput(field: Field, command: str) -> float:
    """Segments a second when replay costs nothing."""
    started = time.monotonic()
    for name in field.names[:SEGMENTS]:
        field.call(command, name)
    return SEGMENTS / (time.monotonic() - started)


def wait(field: Field, command: str) -> float:
    """Median seconds that PostgreSQL waits for a segment when it replays each in REPLAY seconds."""
    waits = []
    for name in field.names[: SEGMENTS // 2]:
        waits.append(field.call(command, name))
        time.sleep(REPLAY)
    return statistics.median(waits[1:])


def cold_start(field: Field, command: str) -> float:
    """Seconds to the first segment."""
    return field.call(command, field.names[0])


def miss(field: Field, command: str) -> float:
    """Median seconds to be told that a segment is not there, with the connection open."""
    field.call(command, field.names[0])
    return statistics.median(field.call(command, ABSENT) for _ in range(MISSES))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="walbasin-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        field = Field(folder)
        try:
            field.settle()
            measure(field)
        finally:
            field.end()


def measure(field: Field) -> None:
    gate, stock_host, stock = field.ours("gate"), field.ours("stock"), field.stocks()
    copy = f"cp {field.local}/%f pg_wal/RECOVERYXLOG"
    contests: list[tuple[str, str, Callable[[Field, str], float], dict[str, str]]] = [
        (
            "replay free",
            "segments/s",
            throughput,
            {"ours": gate, "stock -p 8": stock, "ours, no gate": stock_host, "cp": copy},
        ),
        ("wait at 100 ms replay", "ms", wait, {"ours": gate, "stock -p 8": stock, "cp": copy}),
        ("first segment, cold", "ms", cold_start, {"ours": gate, "stock -p 8": stock, "ours, no gate": stock_host}),
        ("a miss, connection open", "ms", miss, {"ours": gate, "stock -p 8": stock}),
    ]
    for title, unit, measured, contenders in contests:
        results: dict[str, list[float]] = {contender: [] for contender in contenders}
        for _ in range(ROUNDS):
            for contender, command in contenders.items():
                results[contender].append(measured(field, command))
                field.settle()
        scale = 1 if unit == "segments/s" else 1000
        medians = {contender: statistics.median(values) * scale for contender, values in results.items()}
        for contender, median in medians.items():
            ratio = f"{median / medians['ours']:5.2f} of ours" if contender != "ours" else ""
            print(f"{title:<24} {contender:<14} {median:8.1f} {unit:<11} {ratio}", flush=True)


if __name__ == "__main__":
    main()
