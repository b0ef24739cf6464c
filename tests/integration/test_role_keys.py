"""Test how the role exchanges keys: real tasks, sshd and gate, a standby that lies."""

import json
import os
import pwd
import re
import shutil
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


NAMES = ["barman", "barman2"]

# Each run of the role takes as long as a dozen of other tests, so the kin of what is
# tested here runs with make test-all.
kin = pytest.mark.matrix


class Hosts:
    """Run the role's exchange of keys on one machine, which is all hosts."""

    def __init__(self, folder: Path, *barmans: BarmanHost) -> None:
        self.folder, self.barman, self.barmans = folder, barmans[0], barmans
        for name in ("home", "etc", "tools"):
            give_folder(folder / name) if name == "home" else (folder / name).mkdir()
        self.authorized_keys = self.barman.authorized_keys
        self.all_others = [barman.authorized_keys.read_text().splitlines() for barman in barmans]
        self.others = self.all_others[0]

    def variables(self, **changed: Any) -> dict[str, Any]:
        account = pwd.getpwnam(POSTGRES)
        home = ["x", str(account.pw_uid), str(account.pw_gid), "", str(self.folder / "home"), "/bin/sh"]
        known = {
            "ansible_connection": "local",
            "ansible_python_interpreter": PYTHON,
            "ansible_become_method": "su",
            "standby_barman_hosts": NAMES[: len(self.barmans)],
            "standby_barman_server": self.barman.servers[0],
            "standby_barman_user": ME,
            "standby_barman_address": "127.0.0.1",
            "standby_postgres_user": POSTGRES,
            "__standby_home": {"ansible_facts": {"getent_passwd": {POSTGRES: home}}},
            "__standby_present_key": {"rc": 1},
            "__standby_key_writer": {"stdout": "postgres"},
            "__standby_barmans": {name: self.found(name) for name in NAMES[: len(self.barmans)]},
            "__standby_etc": str(self.folder / "etc/angus{{ __standby_generation }}"),
            "__standby_lib": "{{ hostvars[__standby_barman].folder }}/lib",
            "__standby_gate": "{{ hostvars[__standby_barman].folder }}/lib/barman-wal-gate",
            "__standby_authorized_keys": "{{ hostvars[__standby_barman].authorized_keys }}",
        }
        return {**known, **changed}

    def found(self, name: str, **changed: Any) -> dict[str, Any]:
        """Return what preflight has found out about a Barman host."""
        barman = self.barmans[NAMES.index(name)]
        found = {
            "python": PYTHON,
            "home": str(self.folder / name),
            "address": "127.0.0.1",
            "port": str(barman.port),
            "user": ME,
            "own_address": "10.9.9.9",
            "host_keys": [host_key(barman)],
            "refused_key_types": [],
        }
        return {**found, **changed}

    def inventory(self, **said: dict[str, Any]) -> dict[str, Any]:
        """Return the inventory. said: what is said on a Barman host, by its name."""
        barmans = {
            name: {
                "folder": str(barman.folder),
                "authorized_keys": str(barman.authorized_keys),
                "standby_barman_port": barman.port,
                "standby_barman_config": str(barman.folder / "barman.conf"),
                **said.get(name, {}),
            }
            for name, barman in zip(NAMES, self.barmans)
        }
        return {"all": {"hosts": {"chris": {}, **barmans}}}

    def run(self, *options: str, tasks: str = "exchange_keys", said: Any = None, **changed: Any) -> str:
        """Return what ansible-playbook prints."""
        self.write(tasks, said, **changed)
        tools = f"{self.folder}/tools:{self.barman.folder}/bin"
        ran = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", *options, *self.words()],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return str(ran.stdout)

    def words(self) -> "list[str | Path]":
        """Return the words of ansible-playbook for what write() has written."""
        variables = f"@{self.folder}/variables.json"
        return ["-i", self.folder / "hosts.json", "-e", variables, self.folder / "site.yml"]

    def write(self, tasks: str = "exchange_keys", said: Any = None, **changed: Any) -> None:
        """Write a playbook, its inventory and its variables."""
        for name in NAMES[: len(self.barmans)]:
            (self.folder / name).mkdir(exist_ok=True)
        role = {"name": "walbasin.barman.standby", "tasks_from": tasks}
        play = [{"hosts": "chris", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}]
        (self.folder / "site.yml").write_text(json.dumps(play))
        (self.folder / "variables.json").write_text(json.dumps(self.variables(**changed)))
        (self.folder / "hosts.json").write_text(json.dumps(self.inventory(**(said or {}))))

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

    def lines(self, number: int = 0) -> list[str]:
        """Return the lines that the role has added to the authorized_keys of a host."""
        lines = self.barmans[number].authorized_keys.read_text().splitlines()
        return [line for line in lines if line not in self.all_others[number]]

    def state(self) -> dict[str, str]:
        """Return all that a refused run has to leave as it was."""
        files = [*(barman.authorized_keys for barman in self.barmans), *sorted((self.folder / "etc").rglob("*"))]
        return {str(file): file.read_text() for file in files if file.is_file()}

    def key_type(self) -> str:
        return (self.folder / f"home/.ssh/walbasin_{self.barman.servers[0]}.pub").read_text().split()[0]


def host_key(barman: BarmanHost) -> str:
    return " ".join((barman.folder / "host_key.pub").read_text().split()[:2])


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


@pytest.fixture
def pair(folder: Path) -> Iterator[Hosts]:
    """Have two Barman hosts, on which the standby has no line yet."""
    barmans = [BarmanHost(folder / f"pair-{name}") for name in NAMES]
    for barman in barmans:
        barman.add_server("pair")
        barman.start()
    (folder / "pair").mkdir(mode=0o755)
    yield Hosts(folder / "pair", *barmans)
    for barman in barmans:
        barman.end()
    for path in folder.glob("pair*"):
        shutil.rmtree(path)


def succeeded(output: str) -> int:
    """Return how many changes a run has made that went well."""
    found = re.search(r"^chris +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 ", output, re.MULTILINE)
    assert found, output
    return int(found.group(1))


@pytest.mark.parametrize("answer", ["lies", pytest.param("nothing", marks=kin)])
def test_lies_of_a_standby(hosts: Hosts, answer: str) -> None:
    """Make no line of what a standby prints, and give it none."""
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


@kin
@pytest.mark.parametrize("managed", [True, False])
def test_host_key_of_another_host(hosts: Hosts, managed: bool) -> None:
    """Leave all settings as they were after a run that is refused."""
    hosts.deploy()
    before = hosts.state()
    other = " ".join((hosts.barman.folder / "other_host_key.pub").read_text().split()[:2])
    found = {"barman": hosts.found("barman", host_keys=[other])}
    output = hosts.run(__standby_barmans=found, standby_barman_managed=managed)
    assert "failed=1" in output, output
    assert "Host key verification failed" in output
    assert hosts.state() == before


@kin
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
    "by_hand",
    [
        "open line of an older version",
        *(pytest.param(each, marks=kin) for each in ("line of another address", "no line", "unrestricted")),
    ],
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
    assert succeeded(hosts.run("--check")) > 0
    assert succeeded(hosts.run()) > 0
    assert hosts.lines() == [line]


@kin
def test_line_for_those_who_manage_barman(hosts: Hosts) -> None:
    line = hosts.folder / "etc/angus/authorized_keys_lines"
    for hostile in ('*",pty,permitopen="127.0.0.1:5432', '10.0.0.9"\nssh-ed25519 AAAA attacker\n#', "10.0.0.9\n"):
        found = {"barman": hosts.found("barman", own_address=hostile)}
        output = hosts.run(standby_barman_managed=False, __standby_barmans=found)
        assert "failed=1" in output, output
        assert "from= in authorized_keys cannot hold" in output
        assert not line.exists()
    assert succeeded(hosts.run(standby_barman_managed=False)) == 1
    assert line.read_text().startswith('# For barman\nrestrict,from="10.9.9.9",command="')


@kin
def test_two_runs_at_once(hosts: Hosts) -> None:
    """Let each run find the line that works, whichever of them has written it."""
    hosts.authorized_keys.write_text("".join(f"{each}\n" for each in hosts.others))
    hosts.write()
    command = [VENV / "ansible-playbook", *hosts.words()]
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
        ("/usr/sbin/nologin", "This account is currently not available"),
        pytest.param("", "", marks=kin),
        pytest.param("/bin/bash", "", marks=kin),
        pytest.param("/bin/rbash", "restricted", marks=kin),
        pytest.param("/bin/false", "it says nothing", marks=kin),
        pytest.param("/nonexistent", "No such file", marks=kin),
    ],
)
def test_shell_of_barmans_user(hosts: Hosts, shell: str, words: str) -> None:
    account = {"ansible_facts": {"getent_passwd": {ME: ["x", "0", "0", "", str(hosts.folder / "barman"), shell]}}}
    output = hosts.run(
        tasks="preflight_barman",
        __standby_barman="barman",
        __standby_barman_account=account,
        __standby_found_python={"rc": 0, "stdout": PYTHON},
        __standby_python={"rc": 0, "stdout": PYTHON},
        __standby_host_keys=[host_key(hosts.barman)],
    )
    if words:
        assert "failed=1" in output, output
        assert re.search(
            f"has the shell {shell}, with which sshd cannot run the gate: .*{words}.*usermod -s /bin/sh", output
        ), output
    else:
        assert succeeded(output) == 0


def test_rotation(hosts: Hosts) -> None:
    """Put the next key, of the same type, beside the present one, then in its place."""
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


@pytest.mark.parametrize("kind", ["folder", pytest.param("file", marks=kin)])
def test_linked_public_key(hosts: Hosts, kind: str) -> None:
    """Follow no link by which PostgreSQL's user would have root write elsewhere."""
    hosts.deploy()
    public = hosts.folder / f"home/.ssh/walbasin_{hosts.barman.servers[0]}.pub"
    target = hosts.folder / f"root's {kind}"
    if kind == "folder":
        target.mkdir(mode=0o755)
    else:
        target.write_text("root's")
        target.chmod(0o600)
    public.unlink()
    public.symlink_to(target)
    hosts.run()
    assert list(target.iterdir()) == [] if kind == "folder" else target.read_text() == "root's"
    assert target.stat().st_uid == 0
    public.unlink()
    # One that root has made by hand is its own again.
    key = public.with_suffix("")
    os.chown(key, 0, 0)
    assert succeeded(hosts.run()) > 0
    assert key.stat().st_uid == pwd.getpwnam(POSTGRES).pw_uid


def addresses_of(hosts: Hosts) -> list[list[str]]:
    """Return the addresses in the lines on each Barman host."""
    return [[line.split(",")[1] for line in hosts.lines(number)] for number in range(len(hosts.barmans))]


@kin
def test_lines_on_two_hosts(pair: Hosts) -> None:
    """Use one key for both; leave one host as it was when the other refuses it."""
    before = pair.state()
    out = {"barman2": pair.found("barman2", port="1")}
    output = pair.run(__standby_barmans={"barman": pair.found("barman"), **out})
    assert "failed=1" in output, output
    assert f"cannot log in to the gate as {ME} on barman2 with its key" in output
    assert {path: pair.state()[path] for path in before} == before
    output = pair.run()
    assert succeeded(output) > 0
    assert addresses_of(pair) == [['from="127.0.0.1"']] * 2
    for number, barman in enumerate(pair.barmans):
        assert f"--config {barman.folder}/barman.conf --key" in pair.lines(number)[0]
    assert pair.lines(0)[0].split()[-3:] == pair.lines(1)[0].split()[-3:]
    assert succeeded(pair.run()) == 0
    assert succeeded(pair.run("--check")) == 0
    pinned = (pair.folder / "etc/angus/known_hosts").read_text()
    assert [f"[127.0.0.1]:{barman.port} {host_key(barman)}" in pinned for barman in pair.barmans] == [True] * 2


def test_refusal_by_the_second_host(pair: Hosts) -> None:
    """Write on neither host the addresses that only one of them takes."""
    succeeded(pair.run())
    before = pair.state()
    other = " ".join((pair.barmans[1].folder / "other_host_key.pub").read_text().split()[:2])
    found = {"barman": pair.found("barman"), "barman2": pair.found("barman2", host_keys=[other])}
    output = pair.run(standby_key_from=["127.0.0.0/8"], __standby_barmans=found)
    assert "failed=1" in output, output
    assert "Host key verification failed" in output
    assert pair.state() == before
    assert addresses_of(pair) == [['from="127.0.0.1"']] * 2


@kin
def test_own_and_foreign_host(pair: Hosts) -> None:
    """Write the line out for those who manage the second host."""
    said = {"barman2": {"standby_barman_managed": False}}
    output = pair.run(said=said)
    assert succeeded(output) > 0
    assert addresses_of(pair) == [['from="127.0.0.1"'], []]
    assert "Ask those who manage barman2 to install barman-wal-gate there" in output
    comment, line = (pair.folder / "etc/angus/authorized_keys_lines").read_text().splitlines()
    assert comment == "# For barman2"
    assert line in output.replace('\\"', '"')
    # They add it, with the address that they see.
    with pair.barmans[1].authorized_keys.open("a") as file:
        file.write(line.replace("10.9.9.9", "127.0.0.1") + "\n")
    assert succeeded(pair.run(said=said)) == 0


@kin
def test_rotation_on_two_hosts(pair: Hosts) -> None:
    """Let both hosts take both keys before the old one goes from either."""
    succeeded(pair.run())
    former = [pair.lines(number) for number in range(2)]
    out = {"barman2": pair.found("barman2", port="1")}
    output = pair.run(__standby_generation="+next", __standby_barmans={"barman": pair.found("barman"), **out})
    assert "failed=1" in output, output
    assert [pair.lines(number) for number in range(2)] == former
    assert succeeded(pair.run(__standby_generation="+next")) > 0
    lines = [pair.lines(number) for number in range(2)]
    assert [each[0] for each in lines] == [each[0] for each in former]
    assert [[line.endswith("+next") for line in each] for each in lines] == [[False, True]] * 2
    key = pair.folder / f"home/.ssh/walbasin_{pair.barman.servers[0]}"
    for suffix in ("", ".pub"):
        key.with_name(f"{key.name}+next{suffix}").replace(key.with_name(key.name + suffix))
    assert succeeded(pair.run()) > 0
    assert [pair.lines(number) for number in range(2)] == [[each[1].removesuffix("+next")] for each in lines]
