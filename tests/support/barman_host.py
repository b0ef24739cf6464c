"""Run a Barman host: a real sshd on loopback, a real Barman behind it.

BarmanHost has methods that disturb the two.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import IS_ROOT, ME, POSTGRES, PYTHON, VENV, free_port, give, start, wait_until

FILES = Path(__file__).parents[2] / "files"

# Run a test twice: with the gate on the Barman host, and with stock Barman alone.
both_hosts = pytest.mark.parametrize("host", ["gate", "stock"])


def both_hosts_and_ways(jobs: str) -> pytest.MarkDecorator:
    """Run a test with and without the gate, with and without prefetch (-p).

    The two that have the least code in common run every time, the others with make
    test-all.
    """
    always, later = [("gate", jobs), ("stock", "0")], [("gate", "0"), ("stock", jobs)]
    ways = [*always, *(pytest.param(*each, marks=pytest.mark.matrix) for each in later)]
    return pytest.mark.parametrize(("host", "jobs"), ways)


# The wrapper around Barman writes every request to the file `requests`. The file `drop`
# holds WAL names, one a line: a connection that asks for the first one breaks. The file
# `hold` holds a WAL name: its reply stops after 1 MB, and goes on when `hold` is gone.
BARMAN = """#!/bin/sh
cd {folder}
for word; do name=$word; done
echo "$*" >>requests
case " $* " in *" --peek "*) exec {barman} -c {folder}/barman.conf "$@" ;; esac
if [ "$(head -n 1 drop 2>/dev/null)" = "$name" ]; then
    sed -i 1d drop
    parent=$PPID
    while [ "${{parent:-0}}" -gt 1 ] && ! grep -q sshd /proc/$parent/comm; do
        parent=$(cut -d ' ' -f 4 /proc/$parent/stat)
    done
    [ "${{parent:-0}}" -le 1 ] || kill -9 $parent
    exit
fi
if [ "$(cat hold 2>/dev/null)" = "$name" ]; then
    {barman} -c {folder}/barman.conf "$@" | {{
        head -c 1000000
        while [ "$(cat hold 2>/dev/null)" = "$name" ]; do sleep 0.05; done
        cat
    }}
    exit
fi
exec {barman} -c {folder}/barman.conf "$@"
"""

# The forced command of the key `liar`: it ignores the request. It prints the text and
# returns the status that the test has written down.
LIAR = 'cat {folder}/lie; exit "$(cat {folder}/status)"'

# What every sshd of the tests has.
SSHD_BASE = """
ListenAddress 127.0.0.1
HostKey {folder}/host_key
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
PidFile none
"""

# A handshake with less than half of the CPU that the default one takes: the tests make
# thousands of connections.
QUICK_HANDSHAKE = "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org"

# SHLVL=2 keeps Debian's bash from reading ~/.bashrc for each command that comes through
# ssh: barman's is short, and that of the user who runs the tests may not be.
SSHD = f"""{SSHD_BASE}
{{handshake}}
Port {{port}}
Port {{talkative}}
AuthorizedKeysFile {{folder}}/account/.ssh/authorized_keys
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv HOME={{folder}}/account PATH={{folder}}/bin:/usr/bin:/bin SHLVL=2
Match LocalPort {{talkative}}
    PasswordAuthentication yes
    Banner {{folder}}/banner
"""

# A compression that only its filter can undo, and the settings of a server that has it.
CUSTOM_FILTER = "sh -c 'echo WALX && gzip -1'"
CUSTOM = f"""
compression = custom
custom_compression_filter = {CUSTOM_FILTER}
custom_decompression_filter = sh -c 'tail -c +6 | gzip -dc'
"""

SERVER = """
[{name}]
description = {name}
conninfo = host=127.0.0.1 port={port} user={user} dbname=postgres
backup_method = postgres
streaming_conninfo = host=127.0.0.1 port={port} user={user} dbname=postgres
archiver = on
"""

CLIENT = """
Host {alias}
    HostName 127.0.0.1
    Port {port}
    IdentityFile {key}
    UserKnownHostsFile {known_hosts}
"""

# The cipher is the first one of the role's.
COMMON = """
Host *
    Ciphers aes128-gcm@openssh.com
    IdentitiesOnly yes
    IdentityAgent none
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""

STOCK_CLIENT = """#!{python}
import os
import sys
from barman.clients.walrestore import main
os.environ["PATH"] = "{folder}:" + os.environ["PATH"]
if __name__ == "__main__":
    sys.exit(main())
"""


# The forced command of the key `narrow`: it lets `barman get-wal` through.
NARROW = 'case $SSH_ORIGINAL_COMMAND in "barman get-wal "*) eval "$SSH_ORIGINAL_COMMAND" ;; *) exit 1 ;; esac'

# BarmanHost._authorize gives each key its forced command. `stranger` is in no
# authorized_keys.
KEYS = ("gate", "stock", "liar", "hostile", "greeter", "narrow", "stranger")


class BarmanHost:
    """Run sshd and Barman in a folder.

    For ssh, `gate` and `stock` name the two kinds of Barman host. The other names have
    a fault each: see _write_client. handshake: a line of sshd_config, or empty.
    """

    def __init__(self, folder: Path, handshake: str = QUICK_HANDSHAKE) -> None:
        self.folder = folder
        self._handshake = handshake
        self.home = folder / "home"
        self.client = folder / "client"
        self.authorized_keys = folder / "account" / ".ssh" / "authorized_keys"
        self.port = free_port()
        self.talkative_port = free_port()
        self.primary_port = free_port()
        self.servers: list[str] = []
        for each in (self.home, self.client, folder / "bin", folder / "barman.d", self.authorized_keys.parent):
            each.mkdir(mode=0o755, parents=True)
        self._write_barman()
        self._write_keys()
        self._sshd: subprocess.Popen[str] | None = None

    def _write_barman(self) -> None:
        wrapper = self.folder / "bin" / "barman"
        wrapper.write_text(BARMAN.format(folder=self.folder, barman=VENV / "barman"))
        wrapper.chmod(0o755)
        (self.folder / "barman.conf").write_text(
            f"[barman]\nbarman_user = {ME}\nbarman_home = {self.home}\nlog_file = {self.home}/barman.log\n"
            f"configuration_files_directory = {self.folder}/barman.d\n"
        )
        install(self.folder / "lib")

    def _write_keys(self) -> None:
        for key in ("host_key", "other_host_key", *(f"client/{name}" for name in KEYS)):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
        self._host_key, other = ((self.folder / f"{key}.pub").read_text() for key in ("host_key", "other_host_key"))
        (self.client / "known_hosts").write_text(
            "".join(f"[127.0.0.1]:{port} {self._host_key}" for port in (self.port, self.talkative_port))
        )
        (self.client / "other_hosts").write_text(f"[127.0.0.1]:{self.port} {other}")
        # Bind a port without listening: nobody else can take it, and it refuses.
        self._refusing = socket.socket()
        self._refusing.bind(("127.0.0.1", 0))
        self._write_client("ssh_config", self.port)
        self._write_client("unplugged", self._refusing.getsockname()[1])
        give(self.client)
        self._authorize()

    def _write_client(self, name: str, port: int) -> None:
        """Write an ssh_config.

        With `unplugged` no host replies: a file that is delivered came from the spool.
        """
        aliases = {
            **{key: (port, key, "known_hosts") for key in KEYS},
            "prompting": (self.talkative_port, "stranger", "known_hosts"),
            "bannered": (self.talkative_port, "gate", "known_hosts"),
            "changed": (port, "stock", "other_hosts"),
            "refused": (self._refusing.getsockname()[1], "stock", "known_hosts"),
        }
        text = "".join(
            CLIENT.format(alias=alias, port=port, key=self.client / key, known_hosts=self.client / known_hosts)
            for alias, (port, key, known_hosts) in aliases.items()
        )
        (self.client / name).write_text(text + COMMON)

    def _authorize(self) -> None:
        """Write authorized_keys, which sshd reads at every connection.

        The gate's key may fetch from all servers.
        """

        def public(name: str) -> str:
            return (self.client / f"{name}.pub").read_text()

        servers = " ".join(self.servers) or "none"
        program = f"{self.folder}/lib/barman-wal-gate --config {self.folder}/barman.conf"
        printed = subprocess.check_output(["ssh-keygen", "-lf", self.client / "gate"], text=True)
        gate = f"{program} --key {printed.split()[1]} {servers}"
        liar, narrow = (each.replace('"', r"\"") for each in (LIAR.format(folder=self.folder), NARROW))
        self.authorized_keys.write_text(
            f'restrict,from="127.0.0.1",command="{gate}" {public("gate")}'
            f"{public('stock')}"
            f'command="{liar}" {public("liar")}'
            f'command="exec sh {self.folder}/hostile" {public("hostile")}'
            f'restrict,command="{narrow}" {public("narrow")}'
            f'command="echo Welcome to the Barman host; {program} {servers}" {public("greeter")}'
        )

    def start(self) -> None:
        if IS_ROOT:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        configuration = self.folder / "sshd_config"
        (self.folder / "banner").write_text("Authorized use only.\n")
        configuration.write_text(
            SSHD.format(handshake=self._handshake, port=self.port, talkative=self.talkative_port, folder=self.folder)
        )
        command: list[str | Path] = ["/usr/sbin/sshd", "-D", "-e", "-f", configuration]
        with (self.folder / "sshd.log").open("w") as log:
            self._sshd = start(command, self.folder, as_postgres=False, stdout=log, stderr=log)
        wait_until(lambda: "Server listening" in (self.folder / "sshd.log").read_text(), "sshd")

    @property
    def refusing_port(self) -> int:
        """Return a port that refuses connections."""
        return int(self._refusing.getsockname()[1])

    @property
    def host_key(self) -> str:
        """Return the public host key."""
        return self._host_key

    def connections(self) -> set[int]:
        """Return the process ids of sshd's processes that serve a connection."""
        assert self._sshd is not None
        found, children = set(), {self._sshd.pid}
        while children:
            found |= children
            files = [Path(f"/proc/{each}/task/{each}/children") for each in children]
            below = {int(word) for file in files if file.exists() for word in file.read_text().split()}
            children = {each for each in below if "sshd" in Path(f"/proc/{each}/comm").read_text()}
        return found - {self._sshd.pid}

    def cpu(self) -> float:
        """Return the seconds of CPU of all connections that have ended.

        Includes every process that ran in them (proc(5), stat).
        """
        assert self._sshd is not None
        fields = Path(f"/proc/{self._sshd.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.calm()
        self._refusing.close()
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd.wait(timeout=10)

    def reach_through(self, port: int) -> str:
        """Write an ssh_config that reaches the same hosts at another port.

        Returns its name.
        """
        known_hosts = self.client / "known_hosts"
        known_hosts.write_text(known_hosts.read_text() + f"[127.0.0.1]:{port} {self._host_key}")
        self._write_client(f"through-{port}", port)
        return f"through-{port}"

    def add_server(self, name: str, compression: str = "", port: int | None = None, settings: str = "") -> Path:
        """Add a server with an empty archive to Barman, and return its folder of WAL.

        port: that of its primary. settings: more lines of its configuration.
        """
        text = SERVER.format(name=name, port=port or self.primary_port, user=POSTGRES)
        text += (f"compression = {compression}\n" if compression else "") + settings
        (self.folder / "barman.d" / f"{name}.conf").write_text(text)
        for folder in ("wals", "incoming", "streaming", "base", "errors"):
            (self.home / name / folder).mkdir(parents=True)
        self.servers.append(name)
        self._authorize()
        return self.home / name / "wals"

    @contextlib.contextmanager
    def crowded(self, count: int) -> Iterator[None]:
        """Give Barman so many more servers, which have a file each and no archive."""
        files = [self.folder / "barman.d" / f"other{number}.conf" for number in range(count)]
        for file in files:
            file.write_text(SERVER.format(name=file.stem, port=self.primary_port, user=POSTGRES))
        try:
            yield
        finally:
            for file in files:
                file.unlink()

    def archive_command(self, server: str, folder: Path) -> str:
        """Return the archive_command of a primary.

        It writes the whole file into `folder` before Barman sees it.
        """
        return f"cp %p {folder}/unfinished && mv {folder}/unfinished {self.home / server}/incoming/%f"

    def restore_command(
        self, fetcher: Path, spool: Path, *options: str, host: str, server: str, ssh_config: str = "ssh_config"
    ) -> str:
        """Return a restore_command that fetches from this host."""
        words = [fetcher, "--ssh-config", self.client / ssh_config, "--spool-dir", spool, "-U", ME]
        return " ".join(map(str, [*words, *options, host, server, "%f", "%p"]))

    def put(self, server: str, name: str, content: bytes) -> None:
        """Write a file into a server's archive, where Barman looks for it."""
        folder = self.home / server / "wals"
        if not name.endswith(".history"):
            folder = folder / name[:16]
            folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    def file(self, server: str, name: str) -> Path:
        return next((self.home / server).rglob(name))

    def run_barman(self, *words: str) -> str:
        done = subprocess.run(
            [VENV / "barman", "-c", self.folder / "barman.conf", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def lie(self, text: str, status: int) -> None:
        """Set what the host `liar` writes to stdout, and its exit status."""
        (self.folder / "lie").write_text(text)
        (self.folder / "status").write_text(str(status))

    def attack(self, script: str) -> None:
        """Set what the host `hostile` does, whatever it is asked: a shell script."""
        (self.folder / "hostile").write_text(script)

    def drop(self, wal_name: str, times: int = 1) -> None:
        """Break the next connections that ask for this file."""
        (self.folder / "drop").write_text(f"{wal_name}\n" * times)

    def dropping(self) -> bool:
        """Return whether there are connections left to break."""
        return (self.folder / "drop").read_text() != ""

    def hold(self, wal_name: str) -> None:
        """Stop Barman's reply for this file after 1 MB, until calm() is called."""
        (self.folder / "hold").write_text(wal_name)

    def calm(self) -> None:
        """End what drop() and hold() have begun."""
        for name in ("drop", "hold"):
            (self.folder / name).unlink(missing_ok=True)

    def requests(self) -> list[str]:
        """Return the arguments of each call of Barman since the last call of this."""
        file = self.folder / "requests"
        if not file.exists():
            return []
        lines = file.read_text().splitlines()
        file.unlink()
        return lines


def write_clients(file: Path, hosts: "dict[str, tuple[BarmanHost, str, int]]") -> None:
    """Write an ssh_config for several hosts: by alias, host, key and port."""
    known_hosts = file.with_name(f"{file.name}.known_hosts")
    known_hosts.write_text("".join(f"[127.0.0.1]:{port} {host.host_key}" for host, _, port in hosts.values()))
    text = "".join(
        CLIENT.format(alias=alias, port=port, key=host.client / key, known_hosts=known_hosts)
        for alias, (host, key, port) in hosts.items()
    )
    file.write_text(text + COMMON)


def install(folder: Path) -> Path:
    """Install what the role installs, with byte code, where every user can read it.

    Returns the path of the fetcher.
    """
    shutil.copytree(FILES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "interpreter").write_text(f"{PYTHON}\n")
    subprocess.run([PYTHON, "-m", "compileall", "-q", folder], check=True)
    return folder / "barman-wal-restore"


def install_stock_client(folder: Path, barman: BarmanHost, ssh_config: str = "ssh_config") -> Path:
    """Install Barman's own barman-wal-restore where postgres can read it.

    Its ssh uses our ssh_config. Returns the path of the client.
    """
    folder.mkdir(mode=0o755)
    packages = next(VENV.parent.glob("lib/python3*/site-packages"))
    for package in ("barman", "dateutil"):
        shutil.copytree(packages / package, folder / package)
    shutil.copy(packages / "six.py", folder)
    client, ssh = folder / "barman-wal-restore", folder / "ssh"
    client.write_text(STOCK_CLIENT.format(python=PYTHON, folder=folder))
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {barman.client}/{ssh_config} "$@"\n')
    for program in (client, ssh):
        program.chmod(0o755)
    return client
