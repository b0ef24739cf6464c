"""Test the console against a real sshd: whom it trusts, and what it makes of answers.

`sudo` is a script that runs the command, or prints what a test has prepared.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from console import log
from console.hosts import Host
from console.inventory import Inventory
from console.ssh import CONNECT_LIMIT, HostKeyUnknown
from console.survey import MOST_ASKED
from console.text import ConsoleError, NotUnderstood
from tests.support.barman_host import QUICK_HANDSHAKE, SSHD_BASE
from tests.support.network import black_hole
from tests.support.processes import IS_ROOT, ME, POSTGRES, VENV, free_port, give, processes, start, wait_until

ROOT = Path(__file__).parents[2]

SSHD = f"""{SSHD_BASE}
{QUICK_HANDSHAKE}
Port {{port}}
{{certificate}}
AuthorizedKeysFile {{folder}}/key.pub
SetEnv PATH={{folder}}/bin:/usr/bin:/bin SHLVL=2
MaxStartups 300
{{settings}}
"""

SUDO = """#!/bin/sh
case $* in
    *--status*) cat {folder}/snapshot ;;
    *standby.json*) cat {folder}/standby.json ;;
    *get-wal*) ;;
    *) while [ "$1" != -- ]; do shift; done; shift; exec "$@" ;;
esac
"""

RECORD = {
    "barman_host": "barman",
    "barman_server": "angus",
    "data_directory": "/nowhere",
    "postgres_user": POSTGRES,
    "spool_dir": "/nowhere",
    "restore_command": '/usr/local/bin/barman-wal-restore -p 8 barman angus %f "%p"',
}
POSTGRES_ANSWER = {
    "version": "15.1",
    "is_recovering": False,
    "replayed": None,
    "replayed_at": None,
    "now": 1_800_000_000.5,
    "timeline": 1,
    "receiver": None,
    "sent": None,
    "restore_command": RECORD["restore_command"],
    "segment_size": 16 << 20,
}
TEST_ANSWER: dict[str, Any] = {"time": 1_800_000_000.0, "error": "", "gate": "1", "unasked": ""}
FETCHER_ANSWER = {
    "spool": [],
    "free_segments": 40,
    "counters": {"restored": 0, "bytes": 0, "waited": 0.0, "last_segment": ""},
    "test": TEST_ANSWER,
    "gap": None,
}
# Title, clipboard, colour, C1, bidirectional controls, separators, a new line.
HOSTILE = "\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x07\x1b[31m\x9b2J\u202e\u2066\u2028\x85\r\n\x7fmark [/] [link=http://x]"
FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Machine:
    """Run an sshd, as a host that the console asks, or as several."""

    def __init__(
        self, folder: Path, is_certified: bool = False, addresses: Sequence[str] = (), settings: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.port = free_port()
        (folder / "bin").mkdir(parents=True)
        for key in ("host_key", "key", "authority", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        certificate = ""
        if is_certified:
            sign = ["ssh-keygen", "-q", "-s", "authority", "-I", "angus", "-h", "-n", "127.0.0.1", "host_key.pub"]
            subprocess.run(sign, cwd=folder, check=True)
            certificate = f"HostCertificate {folder}/host_key-cert.pub"
        (folder / "sshd_config").write_text(
            SSHD.format(
                port=self.port,
                folder=folder,
                certificate=certificate,
                settings="\n".join(settings),
            )
        )
        sudo = folder / "bin" / "sudo"
        sudo.write_text(SUDO.format(folder=folder))
        sudo.chmod(0o755)
        self.record(RECORD)
        self.answer(json.dumps(POSTGRES_ANSWER), json.dumps(FETCHER_ANSWER))
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (folder / "sshd.log").open("w") as messages:
            command: list[str | Path] = ["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"]
            self._sshd = start(command, folder, as_postgres=False, stdout=messages, stderr=messages)
        wait_until(lambda: "Server listening" in (folder / "sshd.log").read_text(), "sshd")

    def end(self) -> None:
        self._sshd.terminate()
        self._sshd.wait(timeout=10)

    def record(self, record: Any) -> None:
        (self.folder / "standby.json").write_text(json.dumps(record) + "\n")

    def answer(self, *lines: str) -> None:
        """Set what a snapshot prints."""
        (self.folder / "snapshot").write_text("".join(f"{line}\n" for line in lines), errors="surrogatepass")

    def public(self, key: str) -> str:
        return " ".join((self.folder / f"{key}.pub").read_text().split()[:2])

    def known_hosts(self, *lines: str) -> Path:
        """Write a file of host keys, with {name} and {host_key} put in."""
        keys = {key: self.public(key) for key in ("host_key", "authority", "other_key")}
        file = self.folder / "known_hosts"
        file.write_text("".join(line.format(name=f"[127.0.0.1]:{self.port}", **keys) + "\n" for line in lines))
        return file

    @cached_property
    def known_inventory(self) -> Inventory:
        """Return an inventory with this host, read once."""
        return Inventory([str(self.inventory())])

    def inventory(self, **variables: object) -> Path:
        """Write an inventory with this host, called chris."""
        known = {"ansible_host": "127.0.0.1", "ansible_port": self.port, "ansible_user": ME}
        known["ansible_ssh_private_key_file"] = str(self.folder / "key")
        file = self.folder / "inventory.yml"
        file.write_text(json.dumps({"standbys": {"hosts": {"chris": {**known, **variables}}}}))
        return file


@pytest.fixture(scope="module")
def machine(folder: Path) -> Iterator[Machine]:
    made = Machine(folder / "console")
    yield made
    made.end()


@pytest.fixture(scope="module")
def certified(folder: Path) -> Iterator[Machine]:
    made = Machine(folder / "certified", is_certified=True)
    yield made
    made.end()


def echo(machine: Machine, known_hosts: "Path | None", **variables: object) -> str:
    """Run one command on the machine, and return its output."""
    inventory = Inventory([str(machine.inventory(**variables))]) if variables else machine.known_inventory
    host = Host("chris", inventory, str(known_hosts) if known_hosts else None, [])
    try:
        return host.run("echo", "all is", "well").strip()
    finally:
        host.close()


WELL = "all is well"
GOOD = "{name} {host_key}"


@pytest.mark.parametrize(
    "lines",
    [
        [GOOD],
        ["@cert-authority * {authority}", GOOD],
        ["@revoked * {other_key}", GOOD],
        ["", "# a comment", "nonsense", "host ssh-rsa A", "host ssh-ed25519 !!!", "a b c d", "|1|x|y z", GOOD],
        ["{name} ssh-new-kind AAAA", GOOD],
    ],
)
def test_known_host(machine: Machine, lines: list[str]) -> None:
    assert echo(machine, machine.known_hosts(*lines)) == WELL


def test_hashed_known_host(machine: Machine) -> None:
    file = machine.known_hosts(GOOD)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert "127.0.0.1" not in file.read_text()
    assert echo(machine, file) == WELL


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "No ED25519 host key is known for"),
        (["{name} {other_key}"], "has changed"),
        (["@revoked * {host_key}", GOOD], "revoked"),
        (["@cert-authority * {authority}"], "No ED25519 host key is known for"),
    ],
)
def test_host_key_unknown(machine: Machine, lines: list[str], words: str) -> None:
    with pytest.raises(HostKeyUnknown, match=rf"chris: host key not known: .*{words}"):
        echo(machine, machine.known_hosts(*lines))


def test_host_certificate(certified: Machine) -> None:
    assert echo(certified, certified.known_hosts("@cert-authority [127.0.0.1]:* {authority}")) == WELL
    with pytest.raises(HostKeyUnknown):
        echo(certified, certified.known_hosts("@cert-authority [127.0.0.1]:* {other_key}"))


def test_unknown_host_key_and_inventory(machine: Machine) -> None:
    arguments = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    with pytest.raises(HostKeyUnknown, match="not known"):
        echo(machine, None, ansible_ssh_common_args=arguments)
    assert echo(machine, machine.known_hosts(GOOD), ansible_ssh_common_args=arguments) == WELL


@pytest.mark.parametrize("variable", ["ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args"])
def test_arguments_of_inventory(machine: Machine, variable: str) -> None:
    machine.known_hosts(GOOD)
    assert echo(machine, None, **{variable: "-o UserKnownHostsFile={{ inventory_dir }}/known_hosts"}) == WELL


def test_proxy(machine: Machine) -> None:
    """Reach a port that nobody listens on, through a jump host."""
    known = machine.known_hosts(GOOD, "never.example.com {host_key}")
    jump = f"ssh -i {machine.folder}/key -o UserKnownHostsFile={known} -p {machine.port} -W 127.0.0.1:{machine.port}"
    arguments = f"-o UserKnownHostsFile={known} -o ProxyCommand={shlex.quote(f'{jump} {ME}@127.0.0.1')}"
    names = {"ansible_host": "never.example.com", "ansible_port": 22}
    assert echo(machine, None, **names, ansible_ssh_common_args=arguments) == WELL


def test_ssh_settings_of_ansible_cfg(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    file = machine.folder / "ansible.cfg"
    file.write_text(
        f"[defaults]\nprivate_key_file={machine.folder}/key\nremote_user={ME}\n"
        f"[ssh_connection]\nssh_common_args=-o UserKnownHostsFile={machine.known_hosts(GOOD)}\n"
    )
    monkeypatch.setenv("ANSIBLE_CONFIG", str(file))
    (machine.folder / "bare.yml").write_text(
        json.dumps({"standbys": {"hosts": {"chris": {"ansible_host": "127.0.0.1", "ansible_ssh_port": machine.port}}}})
    )
    host = Host("chris", Inventory([str(machine.folder / "bare.yml")]), None, [])
    assert host.run("echo", "well") == "well\n"
    host.close()


def test_undefined_variable_of_inventory(machine: Machine) -> None:
    with pytest.raises(ConsoleError, match=r"chris: Ansible does not know how to reach it: .*'bastion' is undefined"):
        echo(machine, None, ansible_ssh_common_args="-J {{ bastion }}")


@pytest.fixture
def chris_host(machine: Machine) -> Iterator[Host]:
    host = Host("chris", machine.known_inventory, str(machine.known_hosts(GOOD)), [])
    yield host
    host.close()


def test_commands_over_one_connection(machine: Machine, chris_host: Host) -> None:
    before = (machine.folder / "sshd.log").read_text().count("Accepted publickey")
    assert [chris_host.run("printf", "%s", word) for word in ("a b", "$HOME", "';")] == ["a b", "$HOME", "';"]
    assert (machine.folder / "sshd.log").read_text().count("Accepted publickey") == before + 1
    chris_host.close()
    assert chris_host.run("echo", "again") == "again\n"


def test_failed_command(chris_host: Host) -> None:
    with pytest.raises(ConsoleError, match=r"^chris: worse$"):
        chris_host.run("sh", "-c", "echo bad >&2; echo worse >&2; exit 255")
    with pytest.raises(ConsoleError, match=r"^chris: false ended with 1$"):
        chris_host.run("false")
    assert chris_host.run("echo", "well") == "well\n", "the connection is still there"


def test_limits(chris_host: Host) -> None:
    began = time.monotonic()
    with pytest.raises(ConsoleError, match="chris: sleep took more than 1 seconds"):
        chris_host.run("sleep", "30", limit=1)
    with pytest.raises(ConsoleError, match="chris: sh took more than 1 seconds"):
        chris_host.run("sh", "-c", "while :; do echo y; sleep 0.01; done", limit=1)
    with pytest.raises(NotUnderstood, match="chris: not understood: yes has printed more than 64 KiB"):
        chris_host.run("yes", most=1 << 16)
    assert time.monotonic() - began < 25
    assert chris_host.run("echo", "well") == "well\n"


def test_lost_connection(machine: Machine, chris_host: Host) -> None:
    assert chris_host.run("echo", "well") == "well\n"
    with pytest.raises(ConsoleError, match="chris: "):
        chris_host.run("sh", "-c", "kill -9 $PPID")
    assert chris_host.run("echo", "well") == "well\n", "another connection is made"


def fab(*words: "str | Path", cwd: Path, home: "Path | None" = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}", "HOME": str(home or cwd), "COLUMNS": "80"}
    return subprocess.run(
        ["fab", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def access(machine: Machine) -> "list[str | Path]":
    return ["--inventory", machine.inventory(), "--known-hosts", machine.known_hosts(GOOD)]


def test_status_of_hostile_host(machine: Machine) -> None:
    test = {**TEST_ANSWER, "error": HOSTILE}
    postgres = {**POSTGRES_ANSWER, "is_recovering": True, "replayed": 1 << 24, "restore_command": HOSTILE}
    machine.answer(json.dumps(postgres), json.dumps({**FETCHER_ANSWER, "test": test}))
    done = fab("--search-root", ROOT, "status", *access(machine), cwd=machine.folder)
    assert (done.returncode, done.stderr) == (1, "")
    assert "restoring" in done.stdout
    assert done.stdout.replace("\n", "").count("mark [/] [link=http://x]") == 2
    assert FORBIDDEN.search(done.stdout) is None


def test_status_of_stuck_standby(machine: Machine) -> None:
    """Name the task that knows the ways back."""
    names = [f"{1:08X}{0:08X}{number:08X}" for number in (5, 7, 9)]
    gap = dict(zip(("missing", "later", "newest"), names))
    postgres = {**POSTGRES_ANSWER, "is_recovering": True, "replayed": 5 << 24}
    machine.answer(json.dumps(postgres), json.dumps({**FETCHER_ANSWER, "gap": gap}))
    done = fab("--search-root", ROOT, "status", *access(machine), cwd=machine.folder)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"it holds {names[1]}, but not {names[0]}" in " ".join(done.stdout.split())
    assert "chris cannot come back by itself. The ways: fab ways --standby chris" in done.stdout


@pytest.mark.parametrize(
    "answer",
    [
        HOSTILE,
        *(pytest.param(each, marks=pytest.mark.matrix) for each in ("", "[]\n[]", "{}\n{}", "[" * 100_000 + "\n{}")),
        json.dumps({**POSTGRES_ANSWER, "now": float("inf")}) + "\n" + json.dumps(FETCHER_ANSWER),
        json.dumps(POSTGRES_ANSWER) + "\n" + json.dumps({**FETCHER_ANSWER, "spool": "x" * (5 << 20)}),
    ],
)
def test_status_of_malformed_answer(machine: Machine, answer: str) -> None:
    machine.answer(answer)
    done = fab("--search-root", ROOT, "status", *access(machine), cwd=machine.folder)
    assert (done.returncode, done.stderr) == (2, "")
    assert FORBIDDEN.search(done.stdout) is None
    assert re.search(r"chris +down", done.stdout)
    assert "chris: not understood: " in done.stdout


def test_status_of_unknown_host(machine: Machine) -> None:
    words = (*access(machine)[:-1], machine.known_hosts())
    done = fab("--search-root", ROOT, "status", *words, cwd=machine.folder)
    assert done.returncode == 2
    assert re.search(r"chris +unknown", done.stdout)
    assert "chris: host key not known: No ED25519 host key is known for" in done.stdout
    assert "down" not in done.stdout


def test_connections_after_console_kill(machine: Machine) -> None:
    environment = {**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}", "TMPDIR": str(machine.folder)}
    words = ["--search-root", ROOT, "watch", *access(machine)]
    console = subprocess.Popen(["fab", *words], env=environment, stdout=subprocess.DEVNULL, cwd=machine.folder)
    ours = [f"-p {machine.port}", "exec cat >/dev/null"]
    wait_until(lambda: processes(ours), "a connection", 60)
    console.kill()
    console.wait()
    wait_until(lambda: not processes(ours), "the end of the connection", 20)


# Standbys of a large fleet: those that answer, and those that nothing comes from.
LIVING, DARK = 180, 20
# Addresses of the living: sshd listens on 16 at most.
ADDRESSES = [f"127.1.0.{number}" for number in range(1, 16)]


@pytest.fixture
def fleet(workdir: Path) -> Iterator[Machine]:
    """Return the living standbys, each of which streams."""
    settings = [f"ListenAddress {address}" for address in ADDRESSES]
    machine = Machine(workdir / "fleet", settings=settings)
    position = 1 << 24
    answer = {"is_recovering": True, "replayed": position, "receiver": "streaming", "sent": position}
    machine.answer(json.dumps({**POSTGRES_ANSWER, **answer}), json.dumps(FETCHER_ANSWER))
    yield machine
    machine.end()


def fleet_inventory(machine: Machine, dark_port: int | None) -> Path:
    """Write an inventory of the living and the dark, in turns, or of the living."""
    hosts: dict[str, dict[str, object]] = {
        f"chris{number:03}": {"ansible_host": ADDRESSES[number % len(ADDRESSES)]} for number in range(LIVING)
    }
    if dark_port is not None:
        dark: dict[str, object] = {"ansible_host": "127.0.0.1", "ansible_port": dark_port}
        hosts |= {f"chris{LIVING // DARK * number:03}x": dark for number in range(DARK)}
    key = str(machine.folder / "key")
    known = {"ansible_port": machine.port, "ansible_user": ME, "ansible_ssh_private_key_file": key}
    file = machine.folder / "inventory.yml"
    file.write_text(json.dumps({"standbys": {"hosts": dict(sorted(hosts.items())), "vars": known}}))
    return file


class Usage(NamedTuple):
    """Hold what a command used at most: its processes, and KiB of its own memory."""

    processes: int
    memory: int


def usage_until_end(command: "subprocess.Popen[str]") -> Usage:
    most = Usage(0, 0)
    folder = Path(f"/proc/{command.pid}")
    while command.poll() is None:
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            children = sum(len(file.read_text().split()) for file in folder.glob("task/*/children"))
            memory = int((folder / "status").read_text().split("VmHWM:")[1].split()[0])
            most = Usage(max(most.processes, children), max(most.memory, memory))
        time.sleep(0.5)
    return most


def ask_fleet(machine: Machine, task: str, dark_port: int | None) -> tuple[float, Usage, str]:
    """Return how long a task has taken, what it has used, and what it has printed."""
    known_hosts = machine.known_hosts(f"[127.1.0.*]:{machine.port} {{host_key}}")
    words = ["--search-root", ROOT, task, "--inventory", fleet_inventory(machine, dark_port)]
    words += ["--known-hosts", known_hosts, *(["--json"] if task == "status" else ["--seconds", "1"])]
    environment = {**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}", "TMPDIR": str(machine.folder)}
    with (machine.folder / "output").open("w+") as output:
        began = time.monotonic()
        command = subprocess.Popen(
            ["fab", *map(str, words)], env=environment, cwd=machine.folder, stdout=output, text=True
        )
        usage = usage_until_end(command)
        seconds = time.monotonic() - began
        output.seek(0)
        return seconds, usage, output.read()


@pytest.mark.matrix
@pytest.mark.parametrize("task", ["status", "watch"])
def test_large_fleet(fleet: Machine, task: str) -> None:
    """Wait for the standbys that do not answer once, and for all of them together."""
    without, _, _ = ask_fleet(fleet, task, None)
    with black_hole() as dark_port:
        seconds, usage, text = ask_fleet(fleet, task, dark_port)
    print(f"{task}: {seconds:.1f} s, without the dark ones {without:.1f} s; {usage}")
    assert text.count("down") >= DARK
    # On a machine that has nothing else to do; else the living alone take long.
    assert seconds < max(30, without + 2 * CONNECT_LIMIT)
    if task == "status":
        assert (text.count("streaming"), text.count("down")) == (LIVING, DARK)
    assert usage.processes <= LIVING + DARK + MOST_ASKED
    assert usage.memory < 200 << 10
    wait_until(lambda: not processes([f"{fleet.folder}/key"]), "the end of all connections", 5)


@pytest.fixture(scope="module")
def installed(folder: Path) -> Path:
    """Return a home with the collection that users install, and an inventory beside."""
    home = folder / "home"
    project = home / "project"
    (home / ".ssh").mkdir(parents=True)
    project.mkdir()
    environment = {**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}", "HOME": str(home)}
    environment.pop("ANSIBLE_COLLECTIONS_PATH", None)

    def galaxy(*words: "str | Path") -> None:
        command = ["ansible-galaxy", "collection", *words]
        subprocess.run(command, cwd=home, env=environment, check=True, capture_output=True)

    galaxy("build", "--output-path", home / "build", ROOT)
    (tarball,) = (home / "build").iterdir()
    galaxy("install", "--offline", "--collections-path", home / ".ansible" / "collections", tarball)
    return home


def documented_lines(*tasks: str) -> list[str]:
    """Return the commands in the docs that call one of these tasks of fab."""
    found = []
    for page in ("operations.md", "troubleshooting.md"):
        text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
        lines = [re.split(r" {3,}#", line.strip())[0] for line in text.splitlines() if line.startswith("    fab ")]
        found += [line for line in lines if any(f" {task} " in line for task in tasks)]
    return found


@pytest.mark.timeout(600)
def test_documented_lines_with_installed_collection(machine: Machine, installed: Path) -> None:
    """Run them in the folder of the inventory, as they stand, but for the lab's."""
    project = installed / "project"
    # ssh's own known_hosts are in the home that /etc/passwd names.
    arguments = f"-o UserKnownHostsFile={machine.known_hosts(GOOD)}"
    inventory = machine.inventory(ansible_ssh_common_args=arguments).read_text()
    (project / "inventory.yml").write_text(inventory)
    key = installed / ".ssh" / "id_ed25519"
    key.write_text((machine.folder / "key").read_text())
    key.chmod(0o600)
    machine.answer(json.dumps({**POSTGRES_ANSWER, "is_recovering": True, "replayed": 1}), json.dumps(FETCHER_ANSWER))
    collection = installed / ".ansible/collections/ansible_collections/walbasin/barman"
    lines = [line for line in documented_lines("status", "logs") if ".cache/lab" not in line]
    assert len(lines) == 3
    for line in lines:
        # In a checkout fab finds its file by itself.
        cwd = project if "--search-root" in line else collection
        words = line if "--search-root" in line else line.replace("inventory.yml", f"{project}/inventory.yml")
        environment = {**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}", "HOME": str(installed)}
        done = subprocess.run(
            words, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert "chris" in done.stdout, done.stderr
        assert done.stderr == ""
        assert "host key not known" not in done.stdout


def test_identity_that_is_no_key(machine: Machine) -> None:
    done = fab("--search-root", ROOT, "-i", machine.inventory(), "status", cwd=machine.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no key. Before the task -i is --identity, behind it --inventory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_inventory_value_in_help(machine: Machine) -> None:
    done = fab("--search-root", ROOT, "--help", "status", cwd=machine.folder)
    assert re.search(r"-i, --inventory +FILE: ", done.stdout)


def read_log(data: Path) -> "subprocess.CompletedProcess[str]":
    """Run the program that reads a server's log, as PostgreSQL's user."""
    process = start(["sh", "-c", log.READ_LOG, "sh", data, log.PATTERN, "2", "1000000"], data)
    stdout, stderr = process.communicate(timeout=20)
    return subprocess.CompletedProcess([], process.returncode, stdout, stderr)


@pytest.fixture
def data(workdir: Path) -> Path:
    made = workdir / "data"
    made.mkdir()
    (made / "postgresql.log").write_text("".join(f"{number} FATAL: \x1b]0;x\x07\n" for number in range(5)) + "other\n")
    return give(made)


def test_log_of_the_collector(data: Path) -> None:
    (data / "current_logfiles").write_text("stderr postgresql.log\ncsvlog x\n")
    lines = read_log(data).stdout.split("\n")
    assert lines[0] == f"{data}/postgresql.log"
    assert [line[0] for line in lines[1:3]] == ["3", "4"]


@pytest.mark.parametrize("target", ["/dev/zero", "../../../../../../dev/zero", "link", "fifo", ".", "/proc/self/mem"])
def test_log_that_is_no_file(data: Path, target: str) -> None:
    os.mkfifo(data / "fifo")
    (data / "link").symlink_to("/dev/zero")
    (data / "current_logfiles").write_text(f"stderr {target}\n")
    done = read_log(data)
    assert "FATAL" not in done.stdout


def test_log_of_root(data: Path) -> None:
    """Read nothing that PostgreSQL's user may not read."""
    secret = data / "secret"
    secret.write_text("FATAL: the secret\n")
    secret.chmod(0o600)
    (data / "current_logfiles").write_text(f"stderr {secret}\n")
    if IS_ROOT:
        assert "the secret" not in read_log(data).stdout


@pytest.mark.parametrize("name", ["current_logfiles", "postmaster.pid"])
def test_log_named_by_a_fifo(data: Path, name: str) -> None:
    os.mkfifo(data / name)
    assert "FATAL" not in read_log(data).stdout
