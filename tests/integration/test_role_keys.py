"""Test how the role exchanges keys: real tasks, sshd and gate, a standby that lies."""

import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.barman_host import BarmanHost
from tests.support.processes import ME, POSTGRES, PYTHON, VENV, give_folder
from tests.support.role_templar import ROOT

pytestmark = pytest.mark.timeout(600)

# Says what a standby would like to have in authorized_keys, and that all went well.
LIAR = """#!/bin/sh
echo '*",port-forwarding,pty,permitopen="127.0.0.1:5432 1 1 1' >&2
echo '10.0.0.9" 1 10.0.0.2 22'
"""
# Is a hardened host's, which makes no key of type ed25519.
KEYGEN = """#!/bin/sh
case " $* " in *" -t ed25519 "*) echo "ED25519 keys are not allowed in FIPS mode" >&2; exit 1 ;; esac
exec /usr/bin/ssh-keygen "$@"
"""


class Hosts:
    """Run the role's exchange of keys on one machine, which is both hosts."""

    def __init__(self, folder: Path, barman: BarmanHost) -> None:
        self.folder, self.barman = folder, barman
        for name in ("home", "etc", "tools"):
            give_folder(folder / name) if name == "home" else (folder / name).mkdir()
        self.authorized_keys = barman.authorized_keys
        others = self.authorized_keys.read_text()
        self.others = others.splitlines()
        self.host_key = " ".join((barman.folder / "host_key.pub").read_text().split()[:2])

    def variables(self, **changed: Any) -> dict[str, Any]:
        account = pwd.getpwnam(POSTGRES)
        home = ["x", str(account.pw_uid), str(account.pw_gid), "", str(self.folder / "home"), "/bin/sh"]
        known = {
            "ansible_connection": "local",
            "ansible_python_interpreter": PYTHON,
            "ansible_become_method": "su",
            "standby_barman_host": "barman",
            "standby_barman_server": self.barman.servers[0],
            "standby_barman_user": ME,
            "standby_barman_address": "127.0.0.1",
            "standby_barman_port": self.barman.port,
            "standby_barman_config": str(self.barman.folder / "barman.conf"),
            "standby_postgres_user": POSTGRES,
            "__standby_home": {"ansible_facts": {"getent_passwd": {POSTGRES: home}}},
            "__standby_barman_home": self.account("/bin/sh"),
            "__standby_barman_python": {"rc": 0, "stdout": PYTHON},
            "__standby_present_key": {"rc": 1},
            "__standby_address": {"rc": 0, "stdout": "10.9.9.9", "stderr": ""},
            "__standby_etc": str(self.folder / "etc/angus"),
            "__standby_lib": str(self.barman.folder / "lib"),
            "__standby_gate": str(self.barman.folder / "lib/barman-wal-gate"),
            "__standby_authorized_keys": str(self.authorized_keys),
            "__standby_host_keys": [self.host_key],
        }
        return {**known, **changed}

    def account(self, shell: str) -> dict[str, Any]:
        """Return the account of Barman's user, as the module getent does."""
        return {"ansible_facts": {"getent_passwd": {ME: ["x", "0", "0", "", str(self.folder / "barman"), shell]}}}

    def run(self, *options: str, tasks: str = "exchange_keys", **changed: Any) -> str:
        """Return what ansible-playbook prints."""
        (self.folder / "barman").mkdir(exist_ok=True)
        role = {"name": "walbasin.barman.standby", "tasks_from": tasks}
        play = [{"hosts": "chris", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}]
        (self.folder / "site.yml").write_text(json.dumps(play))
        (self.folder / "variables.json").write_text(json.dumps(self.variables(**changed)))
        words: list[str | Path] = [
            "-i",
            "chris,barman",
            "-e",
            f"@{self.folder}/variables.json",
            *options,
            self.folder / "site.yml",
        ]
        tools = f"{self.folder}/tools:{self.barman.folder}/bin"
        ran = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", *words],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return str(ran.stdout)

    def deploy(self) -> None:
        """Have the line and the settings of the standby."""
        if [line.split(",")[1] for line in self.lines()] != ['from="127.0.0.1"'] or len(self.state()) < 3:
            succeeded(self.run())

    def tool(self, name: str, text: str = "") -> None:
        """Put a program before the host's own, or take it away."""
        path = self.folder / "tools" / name
        path.unlink(missing_ok=True)
        if text:
            path.write_text(text)
            path.chmod(0o755)

    def lines(self) -> list[str]:
        """Return the lines that the role has added to authorized_keys."""
        return [line for line in self.authorized_keys.read_text().splitlines() if line not in self.others]

    def state(self) -> dict[str, str]:
        """Return all that a refused run has to leave as it was."""
        files = [self.authorized_keys, *sorted((self.folder / "etc").rglob("*"))]
        return {str(file): file.read_text() for file in files if file.is_file()}

    def key_type(self) -> str:
        return (self.folder / f"home/.ssh/walbasin_{self.barman.servers[0]}.pub").read_text().split()[0]


@pytest.fixture(scope="module")
def hosts(folder: Path) -> Iterator[Hosts]:
    barman = BarmanHost(folder / "keys-barman")
    barman.add_server("keys")
    barman.start()
    (folder / "keys").mkdir(mode=0o755)
    exchange = Hosts(folder / "keys", barman)
    exchange.tool("ssh-keygen", KEYGEN)
    yield exchange
    barman.end()


def succeeded(output: str) -> int:
    """Return how many changes a run has made that went well."""
    found = re.search(r"^chris +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 ", output, re.MULTILINE)
    assert found, output
    return int(found.group(1))


@pytest.mark.parametrize("answer", ["lies", "nothing"])
def test_lies_of_a_standby(hosts: Hosts, answer: str) -> None:
    """Nothing that a standby prints becomes a line, and it gets none."""
    hosts.tool("ssh", LIAR if answer == "lies" else "#!/bin/sh\n")
    output = hosts.run()
    hosts.tool("ssh")
    assert "failed=1" in output, output
    assert "cannot log in to the gate" in output
    assert hosts.lines() == []
    assert list((hosts.folder / "etc/angus").iterdir()) == []


def test_address_on_the_barman_host(hosts: Hosts) -> None:
    output = hosts.run()
    assert succeeded(output) > 0
    (line,) = hosts.lines()
    assert line.startswith('restrict,from="127.0.0.1",command="'), output
    assert f"barman-wal-gate --config {hosts.barman.folder}/barman.conf --key SHA256:" in line
    assert hosts.key_type() == "ecdsa-sha2-nistp256"
    assert sorted(path.name for path in (hosts.folder / "etc/angus").iterdir()) == ["known_hosts", "ssh_config"]
    assert list((hosts.folder / "barman").iterdir()) == []
    assert succeeded(hosts.run()) == 0
    assert succeeded(hosts.run("--check")) == 0


@pytest.mark.parametrize("managed", [True, False])
def test_host_key_of_another_host(hosts: Hosts, managed: bool) -> None:
    """A run that is refused leaves all settings as they were."""
    hosts.deploy()
    before = hosts.state()
    other = " ".join((hosts.barman.folder / "other_host_key.pub").read_text().split()[:2])
    output = hosts.run(__standby_host_keys=[other], standby_barman_managed=managed)
    assert "failed=1" in output, output
    assert "Host key verification failed" in output
    assert hosts.state() == before


def test_addresses_that_keep_the_standby_out(hosts: Hosts) -> None:
    hosts.deploy()
    before = hosts.state()
    output = hosts.run(standby_key_from=["192.0.2.0/24"])
    assert "failed=1" in output, output
    assert "from=192.0.2.0/24 (standby_key_from)" in output
    assert hosts.state() == before
    assert succeeded(hosts.run(standby_key_from=["127.0.0.0/8"])) > 0
    assert [line.split(",")[1] for line in hosts.lines()] == ['from="127.0.0.0/8"']


@pytest.mark.parametrize(
    "by_hand", ["line of another address", "open line of an older version", "no line", "unrestricted"]
)
def test_lines_changed_by_hand(hosts: Hosts, by_hand: str) -> None:
    hosts.deploy()
    (line,) = hosts.lines()
    older = re.sub('from=.*command="([^ ]*)[^"]*"', r'command="echo $SSH_CONNECTION >&2; \1 keys"', line)
    public = " ".join(line.split()[-3:-1])
    changed = {
        "line of another address": [re.sub('from="[^"]*"', 'from="192.0.2.1"', line)],
        "open line of an older version": [older],
        "no line": [],
        "unrestricted": [f"{public} postgres@chris"],
    }[by_hand]
    hosts.authorized_keys.write_text("".join(f"{each}\n" for each in [*hosts.others, *changed]))
    assert succeeded(hosts.run()) > 0
    assert hosts.lines() == [line]


def test_line_for_those_who_manage_barman(hosts: Hosts) -> None:
    line = hosts.folder / "etc/angus/authorized_keys_line"
    for hostile in ('*",pty,permitopen="127.0.0.1:5432', '10.0.0.9"\nssh-ed25519 AAAA attacker\n#', "10.0.0.9\n"):
        output = hosts.run(standby_barman_managed=False, __standby_address={"stdout": hostile})
        assert "failed=1" in output, output
        assert "from= in authorized_keys cannot hold" in output
        assert not line.exists()
    assert succeeded(hosts.run(standby_barman_managed=False)) == 1
    assert line.read_text().startswith('restrict,from="10.9.9.9",command="')


def test_two_runs_at_once(hosts: Hosts) -> None:
    """Each finds the line that works, whichever of them has written it."""
    hosts.authorized_keys.write_text("".join(f"{each}\n" for each in hosts.others))
    variables = hosts.variables()
    (hosts.folder / "variables.json").write_text(json.dumps(variables))
    command: list[str | Path] = [
        VENV / "ansible-playbook",
        "-i",
        "chris,barman",
        "-e",
        f"@{hosts.folder}/variables.json",
        hosts.folder / "site.yml",
    ]
    runs = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    for output in [run.communicate()[0] for run in runs]:
        succeeded(output)
    assert [line.split(",")[1] for line in hosts.lines()] == ['from="127.0.0.1"']


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("", ""),
        ("/bin/bash", ""),
        ("/bin/rbash", "restricted"),
        ("/usr/sbin/nologin", "This account is currently not available"),
        ("/bin/false", "it says nothing"),
        ("/nonexistent", "No such file"),
    ],
)
def test_shell_of_barmans_user(hosts: Hosts, shell: str, words: str) -> None:
    output = hosts.run(
        tasks="preflight_barman", __standby_barman_home=hosts.account(shell), __standby_python={"stdout": PYTHON}
    )
    if words:
        assert "failed=1" in output, output
        assert re.search(
            f"has the shell {shell}, with which sshd cannot run the gate: .*{words}.*usermod -s /bin/sh", output
        ), output
    else:
        assert succeeded(output) == 0


def test_rotation(hosts: Hosts) -> None:
    """The next key stands beside the present one, has its type, and takes its place."""
    hosts.deploy()
    (former,) = hosts.lines()
    present = {"rc": 0, "stdout": f"{hosts.key_type()} AAAA"}
    assert succeeded(hosts.run(__standby_generation="+next", __standby_present_key=present)) > 0
    lines = hosts.lines()
    assert [line.split()[-1].rpartition(":")[2] for line in lines] == ["keys", "keys+next"]
    assert lines[0] == former
    key = hosts.folder / f"home/.ssh/walbasin_{hosts.barman.servers[0]}"
    for suffix in ("", ".pub"):
        key.with_name(f"{key.name}+next{suffix}").replace(key.with_name(key.name + suffix))
    assert hosts.key_type() == former.split()[-3]
    assert succeeded(hosts.run()) > 0
    assert hosts.lines() == [lines[1].removesuffix("+next")]
