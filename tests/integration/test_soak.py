"""Run a standby on Barman alone for a long time, with random faults: make soak."""

import contextlib
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.network import Harm, Network
from tests.support.postgres import Server
from tests.support.processes import wait_until

from .conftest import Primary

MINUTES = float(os.environ.get("MINUTES", "30"))
SEGMENTS = 500


class Faults:
    """Cause faults. Each one is over when its method returns."""

    def __init__(self, chance: random.Random, chris: Server, network: Network, barman: BarmanHost, spool: Path) -> None:
        self.chance = chance
        self.chris = chris
        self.network = network
        self.barman = barman
        self.spool = spool

    def kill_process(self) -> None:
        """Kill a process that fetches or serves."""
        number = self.chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
        words = [str(self.spool), str(self.barman.client), f"{self.barman.folder}/lib/walbasin"]
        ids = [*self.barman.connections()]
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if any(word in line for word in words) and "postgres" not in line.split("/")[-1]:
                    ids.append(int(path.name))
        with contextlib.suppress(OSError, IndexError):
            victim = self.chance.choice(ids)
            is_called_by_server = any("startup" in line for line in ancestry(victim))
            os.kill(victim, number)
            if is_called_by_server:
                self.start_again()

    def start_again(self) -> None:
        """Start the server again: it ends when its restore_command is killed."""
        for _ in range(50):
            if not self.chris.is_running():
                self.chris.start()
                break
            time.sleep(0.1)

    def partition(self) -> None:
        self.network.partition()
        time.sleep(self.chance.uniform(0, 20))
        self.network.heal()

    def harm(self) -> None:
        self.network.harm = Harm(self.chance.choice(["reset", "silence", "crawl"]), self.chance.randrange(40 << 20))
        time.sleep(self.chance.uniform(0, 10))
        self.network.harm = None

    def remove_the_spool(self) -> None:
        shutil.rmtree(self.spool, ignore_errors=True)

    def restart(self) -> None:
        self.chris.stop(self.chance.choice(["fast", "immediate"]))
        self.chris.start()

    def damage(self) -> None:
        """Damage the newest file of the archive for a while."""
        newest = max((self.barman.home / "angus" / "wals").glob("0*/0*"))
        content = newest.read_bytes()
        newest.write_bytes(self.chance.choice([content[: len(content) // 2], b"", bytes(len(content))]))
        time.sleep(self.chance.uniform(0, 5))
        newest.write_bytes(content)

    def nothing(self) -> None:
        time.sleep(self.chance.uniform(0, 3))

    def cause_one(self) -> str:
        """Cause a random fault, and return its name."""
        kills = [self.kill_process] * 2
        one = self.chance.choice(
            [*kills, self.partition, self.harm, self.remove_the_spool, self.restart, self.damage, self.nothing]
        )
        one()
        return one.__name__


def ancestry(process: int) -> Iterator[str]:
    """Yield the command lines of a process, its parent and so on."""
    while process:
        folder = Path("/proc", str(process))
        yield (folder / "cmdline").read_text(errors="replace")
        process = int((folder / "stat").read_text().rpartition(")")[2].split()[1])


def contents(server: Server) -> dict[str, str]:
    """Return a digest of the rows of each table: table -> digest."""
    tables = server.sql(
        "SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    digest = "SELECT count(*) || md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {} t"
    return {table: server.sql(digest.format(table)) for table in tables.split()}


@pytest.mark.soak
@pytest.mark.timeout(int(MINUTES * 60) + 900)
def test_random_faults(
    copy_of_base: Callable[..., Server],
    restore_command: Callable[..., str],
    angus: Primary,
    barman: BarmanHost,
    workdir: Path,
) -> None:
    chance = random.Random(1)
    primary = angus.server
    happened: list[str] = []
    segments = 0
    with Network(barman.port) as network:
        command = restore_command("-p", "4", ssh_config=barman.reach_through(network.port))
        chris = copy_of_base("chris", "standby.signal", restore_command=command)
        chris.start()
        faults = Faults(chance=chance, chris=chris, network=network, barman=barman, spool=workdir / "spool")
        primary.program("pgbench", "-i", "-q", "-s", "2", "-h", "127.0.0.1", "-p", str(primary.port), "postgres")
        end = time.monotonic() + MINUTES * 60
        while time.monotonic() < end and segments < SEGMENTS:
            for _ in range(chance.randrange(1, 5)):
                primary.program(
                    *("pgbench", "-n", "-c", "2", "-t", "300", "-h", "127.0.0.1", "-p", str(primary.port), "postgres")
                )
                primary.sql("SELECT pg_switch_wal()")
                segments += 1
            barman.run_barman("archive-wal", "angus")
            happened.append(faults.cause_one())
        primary.sql("CREATE TABLE the_end AS SELECT now()")
        last = primary.sql("SELECT pg_walfile_name(pg_switch_wal())")
        wait_until(lambda: primary.sql("SELECT last_archived_wal FROM pg_stat_archiver") >= last, "archiving", 120)
        barman.run_barman("archive-wal", "angus")
        wait_until(lambda: "the_end" in contents(chris), "the last table", 300, step=1)
        assert contents(chris) == contents(primary)
        assert chris.sql("SELECT pg_is_in_recovery()") == "t"
    log = chris.log()
    found = re.findall("(?s)Traceback.{,2000}|PANIC.*|archive recovery complete", log)
    assert not found, found[0]
    counts = ", ".join(f"{happened.count(what)} {what}" for what in sorted(set(happened)))
    print(f"{segments} segments written, {log.count('restored log file')} restored; {counts}")
