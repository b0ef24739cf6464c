"""Run real PostgreSQL servers, from Debian's packages or from npm's."""

import re
import shutil
from pathlib import Path

from tests.support.processes import POSTGRES, free_port, give, run

SEGMENT_SIZE = 16 << 20
NPM = Path(__file__).parents[2] / ".cache" / "postgresql" / "node_modules"


def programs() -> Path:
    """Return the folder of the newest server programs that Debian installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    assert found, "the integration tests need PostgreSQL's server programs (Debian: postgresql-15)"
    return found[-1].parent


def install_version(version: int, folder: Path) -> Path:
    """Copy the programs of a major version to where postgres can reach them.

    Returns their folder. package.json lists the versions.
    """
    source = NPM / f"postgresql-{version}" / "native"
    assert source.exists(), "the integration tests need more versions of PostgreSQL than Debian has: make versions"
    shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
    return folder / "bin"


class Server:
    """Hold a data directory, and run the server on it.

    bin: the folder of initdb, pg_ctl and postgres. Other programs are Debian's.
    """

    def __init__(self, data: Path, bin: Path | None = None) -> None:
        self.data = data
        self.bin = bin or programs()
        self.port = free_port()
        self.log_file = data.parent / f"{data.name}.log"
        self._is_started = False

    def program(self, name: str, *words: str | Path) -> str:
        folder = self.bin if (self.bin / name).exists() else programs()
        return run([folder / name, *words], self.data.parent)

    def create(self, *options: str) -> None:
        """Run initdb with checksums, which pg_rewind needs, and without fsync."""
        self.program("initdb", "-D", self.data, "-A", "trust", "-k", "--no-sync", *options)
        self.configure(
            fsync="off",
            listen_addresses="127.0.0.1",
            unix_socket_directories="",
            wal_retrieve_retry_interval="500ms",
            log_line_prefix="%m ",
        )

    def configure(self, **settings: str) -> None:
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                escaped = value.replace("'", "''")
                file.write(f"{name} = '{escaped}'\n")

    def start(self, wait: bool = True) -> None:
        self._is_started = True
        wait_word = "-w" if wait else "-W"
        self.program(
            "pg_ctl", "-D", self.data, "-l", self.log_file, wait_word, "-t", "60", "-o", f"-p {self.port}", "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self.program("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop")
        self._is_started = False

    def promote(self) -> None:
        self.program("pg_ctl", "-D", self.data, "promote", "-w", "-t", "60")

    def is_running(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def end(self) -> None:
        """Stop the server if it still runs; for finalizers."""
        if self._is_started and self.is_running():
            self.stop("immediate")

    def sql(self, query: str) -> str:
        connection = f"host=127.0.0.1 port={self.port} user={POSTGRES} dbname=postgres"
        return self.program(
            "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", connection, "-c", query
        ).strip()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def control(self, what: str) -> str:
        """Return a value of pg_controldata."""
        match = re.search(rf"^{what}: *(.*)$", self.program("pg_controldata", "-D", self.data), re.MULTILINE)
        assert match, what
        return match.group(1)

    def copy(self, folder: Path, **settings: str) -> "Server":
        """Return a server on a copy of this data directory, whose server is stopped."""
        run(["cp", "-a", "--reflink=auto", self.data, folder], self.data.parent)
        give(folder)
        other = Server(folder, self.bin)
        other.configure(**settings)
        return other
