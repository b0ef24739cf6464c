"""Test the role's refusals: each says what to do, and nothing is changed.

One run, with a host for each. The refusals that need real servers are in the lab
(molecule/shared/verify_refusals.yml).
"""

import getpass
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

import pytest

from tests.support.role_templar import ROOT

# Some hundreds of tasks, a process each.
pytestmark = pytest.mark.timeout(1800)

USER = getpass.getuser()
# Barman hosts, and what is said on them.
BARMANS: Dict[str, Dict[str, Any]] = {
    "barman": {},
    "theirs": {"standby_barman_managed": False},
    "misspelt-there": {"standby_barman_adress": "10.0.0.2"},
    "port": {"standby_barman_port": "ssh"},
    "user": {"standby_barman_user": "a b"},
    "config": {"standby_barman_config": '/etc/b" ssh-ed25519'},
}
# In place of a file's text: a pipe without a writer, a link to what only root reads.
PIPE, LINK = "|", "-> /etc/shadow"

# What is wrong -> what a user set, the version and the files of the data directory, and
# the words of the refusal.
REFUSALS: Dict[str, Tuple[Dict[str, Any], str, Dict[str, str], str]] = {
    "missing": ({"standby_barman_server": None}, "15", {}, "missing required arguments: standby_barman_server"),
    "choice": ({"standby_compression": "lz4"}, "15", {}, "standby_compression must be one of: auto, none, gzip, bzip2"),
    "rate": ({"standby_rate_limit": "20MB"}, "15", {}, "standby_rate_limit: 20MB .* is no number of bytes a second"),
    "rate-little": ({"standby_rate_limit": "63k"}, "15", {}, "standby_rate_limit: 63k .* or less than 64k"),
    "misspelt": (
        {"standby_barman_sever": "angus"},
        "15",
        {},
        r"The role has no standby_barman_sever \(did you mean standby_barman_server\?\) \(set for misspelt\)",
    ),
    # Refused for its version alone: a site's own variable is no error.
    "site-variable": ({"standby_port": 5433}, "9.6", {}, "is of PostgreSQL 9.6; the role supports 10 and later"),
    "shell": ({"standby_barman_server": "a; b"}, "15", {}, "standby_barman_server: a; b .* may only have letters"),
    "from": (
        {"standby_key_from": ['1.2.3.4"']},
        "15",
        {},
        'standby_key_from: 1.2.3.4\\\\" .* must be a list of addresses',
    ),
    "from-feed": (
        {"standby_key_from": ["1.2.3.4\n"]},
        "15",
        {},
        "must be a list of addresses",
    ),
    "config": (
        {"standby_barman_config": '/etc/b.conf" ssh-ed25519'},
        "15",
        {},
        "standby_barman_config: .* becomes part of a line in authorized_keys",
    ),
    "key-type": ({"standby_key_type": "dsa"}, "15", {}, "standby_key_type must be one of: auto, ed25519, ecdsa, rsa"),
    "hosts-former-name": (
        {"standby_barman_host": "barman"},
        "15",
        {},
        r"The role has no standby_barman_host \(did you mean standby_barman_hosts\?\)",
    ),
    "hosts-none": ({"standby_barman_hosts": []}, "15", {}, "standby_barman_hosts .* no Barman host is named"),
    "hosts-blank": ({"standby_barman_hosts": ["barman", ""]}, "15", {}, "a name is empty"),
    "hosts-comma": ({"standby_barman_hosts": "barman,barman2"}, "15", {}, "barman,barman2 has a comma. Write a list"),
    "hosts-twice": (
        {"standby_barman_hosts": ["barman", "barman2", "barman"]},
        "15",
        {},
        r"standby_barman_hosts \(set for hosts-twice\): barman is named twice",
    ),
    "hosts-nine": (
        {"standby_barman_hosts": [f"barman{number}" for number in range(9)]},
        "15",
        {},
        "9 Barman hosts are named, and 8 is as many as there may be",
    ),
    "hosts-shell": (
        {"standby_barman_hosts": ["barman", "$(id)"]},
        "15",
        {},
        r"standby_barman_hosts: \$\(id\) \(set for hosts-shell.* may only have letters",
    ),
    "hosts-stranger": (
        {"standby_barman_hosts": ["barman", "nobody"]},
        "15",
        {},
        "nobody is not in the inventory.*set standby_barman_managed: false on nobody in the inventory",
    ),
    "hosts-first-use": (
        {"standby_barman_hosts": ["barman", "theirs"]},
        "15",
        {},
        "cannot read the host keys of theirs.*set standby_barman_host_key on theirs in the inventory",
    ),
    "hosts-misspelt": (
        {"standby_barman_hosts": ["barman", "misspelt-there"]},
        "15",
        {},
        r"no standby_barman_adress \(did you mean standby_barman_address\?\) \(set for misspelt-there\)",
    ),
    "hosts-port": (
        {"standby_barman_hosts": ["barman", "port"]},
        "15",
        {},
        "standby_barman_port: ssh .* on port in the inv",
    ),
    "hosts-user": (
        {"standby_barman_hosts": ["barman", "user"]},
        "15",
        {},
        r"standby_barman_user: a b \(set for hosts-user on user in the inventory\) may only have letters",
    ),
    "hosts-config": (
        {"standby_barman_hosts": ["barman", "config"]},
        "15",
        {},
        "standby_barman_config: /etc/b.* on config in the inventory.* becomes part of a line in authorized_keys",
    ),
    "stranger": ({"standby_barman_hosts": "nobody"}, "15", {}, "nobody is not in the inventory"),
    "first-use": ({"standby_barman_managed": False}, "15", {}, "set standby_barman_host_key"),
    "nowhere": ({}, "", {}, "nowhere has no PG_VERSION, so it is no data directory"),
    "several": ({"standby_data_directory": ""}, "15", {}, "several has several clusters: .*set standby_data_directory"),
    "old": ({}, "9.6", {}, "is of PostgreSQL 9.6; the role supports 10 and later"),
    "leftover": ({}, "15", {"recovery.conf": ""}, "leftover/recovery.conf .* does not start while it is there"),
    "pitr": ({}, "15", {"recovery.signal": ""}, r"point-in-time recovery \(recovery.signal without standby.signal"),
    "pitr11": ({}, "11", {"recovery.conf": "standby_mode = off\n"}, "recovery.conf without standby_mode = on"),
    "unknown": ({}, "15", {}, "pg_controldata does not tell whether .*/unknown is of a primary or of a standby"),
    "autoctl": (
        {},
        "15",
        {"standby.signal": "", "postgresql-auto-failover.conf": ""},
        "is managed by pg_autoctl, which writes PostgreSQL's configuration itself",
    ),
    "patroni": (
        {},
        "15",
        {"standby.signal": "", "patroni.dynamic.json": "{}"},
        "is, or was, managed by Patroni, but no file that .* can read is its whole configuration and names it as "
        "data_dir.*remove patroni.dynamic.json",
    ),
    "inside": (
        {"standby_spool_dir": "{{ standby_data_directory }}/spool"},
        "15",
        {"standby.signal": ""},
        "inside/spool on inside is inside the data directory",
    ),
    # What PostgreSQL's own user could lay there for root.
    "version-pipe": ({}, "15", {"PG_VERSION": PIPE}, "version-pipe/PG_VERSION on version-pipe is no regular file"),
    "version-link": ({}, "15", {"PG_VERSION": LINK}, "version-link/PG_VERSION on version-link is no regular file"),
    "pid-pipe": ({}, "15", {"postmaster.pid": PIPE}, "pid-pipe/postmaster.pid on pid-pipe is no regular file"),
    "auto-link": ({}, "15", {"postgresql.auto.conf": LINK}, "postgresql.auto.conf on auto-link is no regular file"),
    "recovery-link": ({}, "11", {"recovery.conf": LINK}, "recovery.conf on recovery-link is no regular file"),
    "carriage-return": (
        {"standby_data_directory": "FOLDER/carriage-return\rExecStartPre=+/tmp/evil"},
        "15",
        {"standby.signal": ""},
        r"carriage-return\\+rExecStartPre=\+/tmp/evil.* on carriage-return is a data directory.*only letters",
    ),
    "dots": (
        {"standby_data_directory": "FOLDER/one/../dots"},
        "15",
        {"standby.signal": ""},
        r"one/\.\./dots.* on dots is a data directory.* without",
    ),
    "wal-link": (
        {},
        "15",
        {"standby.signal": "", "pg_wal": "-> /srv/$(id)"},
        r"/srv/\$\(id\).* on wal-link is where .*/wal-link or its pg_wal really lies",
    ),
    "include-dots": (
        {},
        "15",
        {"standby.signal": "", "postgresql.conf": "include_dir = '../../../etc/tmpfiles.d'\n"},
        "on include-dots is the include_dir in .*/include-dots/postgresql.conf",
    ),
    "include-escape": (
        {},
        "15",
        {"standby.signal": "", "postgresql.conf": "include_dir = '/etc/postgresql/\x1b]0;x'\n"},
        "on include-escape is the include_dir in",
    ),
    "include-elsewhere": (
        {},
        "15",
        {"standby.signal": "", "postgresql.conf": "include_dir = '/etc/tmpfiles.d'\n"},
        "leads to .*/etc/tmpfiles.d.* lies neither below /etc/postgresql nor in .*set standby_config_dir",
    ),
    "include-link": (
        {},
        "15",
        {"standby.signal": "", "postgresql.conf": "include_dir = 'conf.d'\n", "conf.d": "-> /etc/tmpfiles.d"},
        "leads to .*/etc/tmpfiles.d.* lies neither below",
    ),
    "config-link": (
        {},
        "15",
        {"standby.signal": "", "postgresql.conf": "-> /etc/hostname"},
        "config-link/postgresql.conf on config-link leads to .*/etc/hostname.* lies neither below",
    ),
    "config-pipe": (
        {},
        "15",
        {"standby.signal": "", "postgresql.conf": PIPE},
        "config-pipe/postgresql.conf on config-pipe is no regular file",
    ),
    "config-missing": (
        {},
        "15",
        {"standby.signal": "", "postgresql.conf": "-> none.conf"},
        "config-missing/postgresql.conf on config-missing does not exist",
    ),
    "settings-pipe": (
        {},
        "15",
        {"standby.signal": "", "walbasin.conf": PIPE},
        "settings-pipe/walbasin.conf on settings-pipe is no regular file",
    ),
    "no-user": ({"standby_postgres_user": "nosuchuser"}, "15", {}, "no-user has no user nosuchuser"),
}

# Refused for the same reason as one of the others. Each takes as long as a dozen of
# those for a variable, so they run with make test-all.
KIN = [
    *("pitr11", "unknown", "leftover", "version-link", "pid-pipe", "auto-link", "recovery-link", "dots", "wal-link"),
    *("include-dots", "include-escape", "include-link", "config-pipe", "config-missing", "settings-pipe"),
]
each_refusal = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.matrix] if name in KIN else []) for name in REFUSALS]
)


def inventory(folder: Path, wanted: Set[str]) -> Dict[str, Any]:
    standbys = {}
    for name in wanted:
        variables, version, files, _ = REFUSALS[name]
        known = {"standby_barman_server": "angus", "standby_data_directory": str(folder / name), **variables}
        # Not by Jinja, which would make a line feed of a carriage return.
        known["standby_data_directory"] = known["standby_data_directory"].replace("FOLDER", str(folder))
        data = Path(known["standby_data_directory"] or folder / name)
        data.mkdir(parents=True)
        usual = {"PG_VERSION": f"{version}\n", "postgresql.conf": ""} if version else {}
        if "pg_wal" not in files:
            (data / "pg_wal").mkdir()
        for file, text in {**usual, **files}.items():
            if text == PIPE:
                os.mkfifo(data / file)
            elif text.startswith("-> "):
                (data / file).symlink_to(text[3:])
            else:
                (data / file).write_text(text, encoding="utf-8")
        standbys[name] = {name: value for name, value in known.items() if value is not None}
    common = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "standby_barman_hosts": "barman",
        "standby_postgres_user": USER,
    }
    return {"standbys": {"hosts": standbys, "vars": common}, "barmans": {"hosts": BARMANS}}


@pytest.fixture(scope="module")
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what ansible-playbook prints in one run with a host for each test."""
    tests = [item for item in request.session.items if item.path == request.path and isinstance(item, pytest.Function)]
    wanted = {str(item.callspec.params["name"]) for item in tests if "output" in item.fixturenames}
    folder = tmp_path_factory.mktemp("refusals")
    tools = folder / "bin"
    tools.mkdir()
    # Of no test's standby: what Debian has under its name in /etc would be asked for.
    clusters = [folder / "one", folder / "another"]
    for data in clusters:
        data.mkdir()
        (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    lines = [f"echo 15 main 5432 down {USER} {data} /log" for data in clusters]
    (tools / "pg_lsclusters").write_text("\n".join(["#!/bin/sh", *lines]), encoding="utf-8")
    (tools / "pg_lsclusters").chmod(0o755)
    play = [{"hosts": "standbys", "gather_facts": False, "roles": ["walbasin.barman.standby"]}]
    (folder / "site.yml").write_text(json.dumps(play), encoding="utf-8")
    (folder / "hosts.json").write_text(json.dumps(inventory(folder, wanted)), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", folder / "hosts.json", "-f", "16", folder / "site.yml"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.stdout


@each_refusal
def test_refusal(output: str, name: str) -> None:
    refusals = re.findall(rf"^(?:fatal|failed): \[{name}\].*", output, re.MULTILINE)
    assert len(refusals) == 1, output
    assert re.search(REFUSALS[name][3], refusals[0]), refusals[0]


@each_refusal
def test_nothing_changed(output: str, name: str) -> None:
    assert re.search(rf"^{name} +: ok=\d+ +changed=0 +unreachable=[01] +failed=[01] ", output, re.MULTILINE), output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Name one standby of the inventory: -e rebuild_standby=HOST"),
        (["rebuild_standby=zoe"], "Name one standby of the inventory: -e rebuild_standby=HOST"),
        (["rebuild_standby=standbys"], "Name one standby of the inventory: -e rebuild_standby=HOST"),
        (
            ["rebuild_standby=chris", 'rebuild_tablespaces={"fast":"/srv"}'],
            "does not name a folder for each tablespace",
        ),
    ],
)
def test_rebuild_of_not_one_standby(options: List[str], words: str) -> None:
    """Refuse to do nothing, or more than one, or what is no dictionary."""
    inventory = str(ROOT / "molecule/shared/inventory")
    playbook = [sys.executable, "-m", "ansible", "playbook", "-i", inventory]
    for option in options:
        playbook += ["-e", option]
    ran = subprocess.run(
        [*playbook, str(ROOT / "playbooks/rebuild.yml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 2
    assert words in ran.stdout + ran.stderr
