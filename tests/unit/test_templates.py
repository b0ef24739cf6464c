"""Test what templates make of the role's variables, for each kind of PostgreSQL."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ansible.errors import AnsibleError  # type: ignore[import-untyped]

from tests.support.role_templar import ROLE, cluster, load, render, slurped, value_of

COMMAND = (
    "/usr/local/bin/barman-wal-restore --ssh-config /etc/walbasin/angus/ssh_config"
    ' --spool-dir /var/lib/postgresql/15/walbasin_main -p 8 -s 10 barman angus %f "%p"'
)
P = "/usr/local/bin/barman-wal-restore"
GONE = '; echo "barman-wal-restore is not installed on this host" >&2; '
STANDBY_MODE = 'grep -Eiq "^[[:space:]]*standby_mode[[:space:]=]*.?(on|t|y|1)" recovery.conf'
# What goes along with a clone of the data directory.
GUARDED = f"[ -x {P} ] && exec {COMMAND}{GONE}[ ! -e recovery.signal ] || [ -e standby.signal ] || exit 200; exit 1"
GUARDED_11 = f"[ -x {P} ] && exec {COMMAND}{GONE}[ ! -e recovery.conf ] || {STANDBY_MODE} || exit 200; exit 1"
MARK = "# Written by Ansible (walbasin.barman.standby) from here on; the lines above are kept."


def test_classic_restore_command() -> None:
    assert value_of("__standby_restore_command", **cluster()) == COMMAND


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"standby_parallel": 0, "standby_sleep": 0}, "-p 0 -s 0 barman angus"),
        ({"standby_compression": "gzip"}, "-z -p"),
        ({"standby_compression": "bzip2"}, "-j -p"),
        ({"standby_compression": "zstd"}, "--compress zstd -p"),
        ({"standby_compression": "none"}, "--compress none -p"),
        ({"standby_rate_limit": "20M"}, "--rate-limit 20M -p"),
        ({"standby_rate_limit": 20000000, "standby_compression": "gzip"}, "-z --rate-limit 20000000 -p"),
        ({"standby_keep_compression": True}, "--keep-compression -p"),
        ({"standby_partial": True}, "-P -p"),
        ({"standby_barman_user": "backup"}, "-U backup -p"),
        ({"standby_barman_config": "/etc/b 2.conf"}, "-c '/etc/b 2.conf' -p"),
        ({"standby_spool_dir": "/wal/100% ours"}, "--spool-dir '/wal/100%% ours' -p"),
    ],
)
def test_restore_command_options(variables: Dict[str, Any], words: str) -> None:
    line = value_of("__standby_restore_command", **cluster(), **variables)
    assert f" {words} " in line
    assert line.endswith(' barman angus %f "%p"')


TWO = {"standby_barman_hosts": ["barman", "barman2"]}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, "-p 8 -s 10"),
        ({"standby_barman_user": "backup"}, "-U '' -p 8 -s 10"),
        ({"standby_barman_config": "/etc/b2.conf"}, "-p 8 -s 10"),
    ],
)
def test_restore_command_of_several_hosts(own: Dict[str, str], words: str) -> None:
    """Leave to ssh's settings and to the gates what differs from host to host."""
    line = value_of("__standby_restore_command", **cluster(), **TWO, hostvars={"barman2": own})
    assert line == COMMAND.replace("-p 8 -s 10 barman angus", f"{words} barman,barman2 angus")


CONNINFO = {"standby_primary_conninfo": r"host=angus password='it\'s'", "standby_primary_slot_name": "chris"}
SHARED = [f"restore_command = '{COMMAND}'"]
SHARED_11 = [f"restore_command = '{GUARDED_11}'", "recovery_target_timeline = 'latest'"]
ITS_CONNINFO = [
    r"primary_conninfo = 'host=angus password=''it\\''s'''",
    "primary_slot_name = 'chris'",
]


@pytest.mark.parametrize(
    ("version", "template", "variables", "expected"),
    [
        ("10", "recovery.conf.j2", {}, ["standby_mode = 'on'", *SHARED_11]),
        (
            "11",
            "recovery.conf.j2",
            {**CONNINFO, "standby_trigger_file": "/tmp/promote"},
            ["standby_mode = 'on'", *SHARED_11, *ITS_CONNINFO, "trigger_file = '/tmp/promote'"],
        ),
        ("12", "walbasin.conf.j2", {}, SHARED),
        ("15", "walbasin.conf.j2", CONNINFO, [*SHARED, *ITS_CONNINFO]),
        ("15", "walbasin.conf.j2", {"standby_trigger_file": "/tmp/promote"}, SHARED),
    ],
)
def test_settings(version: str, template: str, variables: Dict[str, Any], expected: List[str]) -> None:
    lines = render(template, **cluster(version), **variables).splitlines()
    assert lines[0].startswith("# Written by Ansible")
    assert lines[1:] == expected


IN_DATA = {
    "__standby_config_paths": {"stdout": "/etc/postgresql\n/var/lib/pgsql/15/data/postgresql.conf"},
    "__standby_settings_folder": {"stdout": "/var/lib/pgsql/15/data"},
}


def test_settings_in_data_directory() -> None:
    """Guard a command that goes along with a clone, and call the program alone."""
    known = {**cluster("15", "/var/lib/pgsql/15/data"), **IN_DATA, "standby_spool_dir": "/spool"}
    command = GUARDED.replace("/var/lib/postgresql/15/walbasin_main", "/spool")
    assert value_of("__standby_restore_command", **known) == command
    direct = COMMAND.replace("/var/lib/postgresql/15/walbasin_main", "/spool")
    test = direct.replace('%f "%p"', "test pg_wal/test").replace(" --ssh", " -t --ssh", 1)
    assert value_of("__standby_test_command", **known, __standby_option="-t") == test


@pytest.mark.parametrize(
    ("version", "files", "status"),
    [
        ("15", {"standby.signal": ""}, 1),
        ("15", {"standby.signal": "", "recovery.signal": ""}, 1),
        ("15", {"recovery.signal": ""}, 200),
        ("15", {}, 1),
        ("11", {"recovery.conf": "standby_mode = on\n"}, 1),
        ("11", {"recovery.conf": " Standby_Mode 'TRUE'\n"}, 1),
        ("11", {"recovery.conf": "standby_mode = 'off'\n"}, 200),
        ("11", {"recovery.conf": "#standby_mode = on\nrestore_command = 'x'\n"}, 200),
        ("11", {}, 1),
    ],
)
@pytest.mark.parametrize("is_installed", [False, True])
def test_command_without_program(
    tmp_path: Path, version: str, files: Dict[str, str], status: int, is_installed: bool
) -> None:
    """End no recovery early, and stop no standby and no promotion."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    program = tmp_path / "barman-wal-restore"
    if is_installed:
        program.write_text("#!/bin/sh\nexit 42\n")
        program.chmod(0o755)
    command = value_of(
        "__standby_restore_command", **{**cluster(version), **IN_DATA, "__standby_real_data": "/var/lib"}
    )
    call = command.replace(P, str(program)).replace("%f", "x").replace("%p", "y")
    done = subprocess.run(["sh", "-c", call], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (42 if is_installed else status)
    assert ("not installed on this host" in done.stderr) is not is_installed


@pytest.mark.parametrize(
    ("wanted", "present", "running", "stopped", "line"),
    [
        ("latest", "", "latest", "", []),
        ("latest", "", None, "latest", []),
        ("latest", "", None, "", []),
        ("latest", "", "3", "", ["recovery_target_timeline = 'latest'"]),
        ("latest", "", None, "current", ["recovery_target_timeline = 'latest'"]),
        ("latest", "recovery_target_timeline = 'latest'\n", "latest", "", ["recovery_target_timeline = 'latest'"]),
        ("latest", "recovery_target_timeline = '3'\n", "3", "", ["recovery_target_timeline = 'latest'"]),
        ("current", "", "latest", "", ["recovery_target_timeline = 'current'"]),
    ],
)
def test_target_timeline(wanted: str, present: str, running: Any, stopped: str, line: List[str]) -> None:
    """Write the default only where another value is in effect, and leave it there."""
    known = {
        **cluster(),
        "standby_recovery_target_timeline": wanted,
        "__standby_settings_present": slurped(present),
        "__standby_server_answers": running is not None,
        "__standby_server_state": {"timeline": running},
        "__standby_stopped_timeline": {"stdout": stopped},
    }
    assert render("walbasin.conf.j2", **known).splitlines()[2:] == line


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, [r"primary_conninfo = 'host=angus password=it''s\\x'", "primary_slot_name = 'chris'"]),
        (
            {"standby_primary_conninfo": "host=bruno"},
            ["primary_conninfo = 'host=bruno'", "primary_slot_name = 'chris'"],
        ),
    ],
)
def test_streaming_settings_of_an_earlier_run(given: Dict[str, str], lines: List[str]) -> None:
    """Do not take away how the standby streams, when a run is not told (-e)."""
    present = r"""# Written by Ansible (walbasin.barman.standby).
restore_command = 'x'
primary_conninfo = 'host=angus password=it''s\\x'
primary_slot_name = 'chris'
"""
    known = {**cluster(), "__standby_settings_present": slurped(present), **given}
    assert render("walbasin.conf.j2", **known).splitlines()[2:] == lines


def recovery_conf(before: str, **variables: Any) -> str:
    return render("recovery.conf.j2", **cluster("11", recovery_conf=before), **variables)


def test_recovery_conf_former_lines() -> None:
    """Keep the former lines, except the settings that the role writes."""
    before = (
        "# by hand, in 2016\n"
        "Standby_Mode = 'off'\n"
        "#restore_command = 'cp /wal/%f %p'\n"
        "restore_command='cp /wal/%f %p'\n"
        "primary_conninfo 'host=angus'  # no equals sign\n"
        "\n"
        "archive_cleanup_command = 'true'"
    )
    assert recovery_conf(before).splitlines() == [
        "# by hand, in 2016",
        "#restore_command = 'cp /wal/%f %p'",
        "primary_conninfo 'host=angus'  # no equals sign",
        "",
        "archive_cleanup_command = 'true'",
        MARK,
        "standby_mode = 'on'",
        *SHARED_11,
    ]


@pytest.mark.parametrize("before", ["", "a = 1", "a = 1\n\n\n", f"{MARK}\nrestore_command = 'x'\na = 1\n"])
def test_recovery_conf_second_run(before: str) -> None:
    once = recovery_conf(before)
    assert recovery_conf(once) == once
    assert once.count("restore_command =") == 1


def test_recovery_conf_given_settings() -> None:
    """Replace the settings that a user gave, and keep the others."""
    before = "primary_conninfo = 'host=old'\nprimary_slot_name = 'old'\n"
    lines = recovery_conf(before, standby_primary_conninfo="host=new").splitlines()
    assert "primary_conninfo = 'host=new'" in lines
    assert "primary_conninfo = 'host=old'" not in lines
    assert "primary_slot_name = 'old'" in lines


def found_barman(**known: Any) -> Dict[str, Any]:
    """Return what preflight records of a Barman host."""
    task = load(ROLE / "tasks/preflight_barman.yml")[-1]
    known = {"__standby_present_key": {"rc": 1}, "__standby_checked_login": {"stdout": ""}, **known}
    value = {"__standby_address": {"stdout": "10.0.0.3"}, **known}
    return {
        name: value_of(text.removeprefix("{{").removesuffix("}}"), **value)
        for name, text in task["vars"]["__standby_found"].items()
    }


@pytest.mark.parametrize(("port", "name"), [(22, "barman"), (2222, "[barman]:2222")])
def test_known_hosts_port(port: int, name: str) -> None:
    facts = {
        "ansible_ssh_host_key_rsa_public": "BBBB",
        "ansible_ssh_host_key_rsa_public_keytype": "ssh-rsa",
        "ansible_ssh_host_key_ed25519_public": "AAAA",
        "ansible_ssh_host_key_ed25519_public_keytype": "ssh-ed25519",
        # A host may say anything.
        "ansible_ssh_host_key_ecdsa_public": "CCCC\n@cert-authority * ssh-rsa DDDD",
        "ansible_ssh_host_key_ecdsa_public_keytype": "ecdsa-sha2-nistp256",
    }
    known = {"standby_barman_port": port, "__standby_barman_facts": {"ansible_facts": facts}}
    found = {"barman": found_barman(**known)}
    text = render("known_hosts.j2", __standby_barmans=found)
    assert text.splitlines()[1:] == [f"{name} ssh-ed25519 AAAA", f"{name} ssh-rsa BBBB"]


PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q walbasin:chris:angus"
FINGERPRINT = "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(PUBLIC.split()[1])).digest()).decode()[:-1]
KEY = f"--key {FINGERPRINT}"


@pytest.mark.parametrize(
    ("config", "gate"),
    [
        ("", f"/usr/local/bin/barman-wal-gate {KEY} angus"),
        ("/etc/b2.conf", f"/usr/local/bin/barman-wal-gate --config /etc/b2.conf {KEY} angus"),
    ],
)
def test_authorized_keys_line(config: str, gate: str) -> None:
    line = render(
        "authorized_keys.j2",
        __standby_from=["10.1.2.3", "fd00::3"],
        __standby_public_key=PUBLIC,
        standby_barman_config=config,
    )
    assert line == f'restrict,from="10.1.2.3,fd00::3",command="{gate}" {PUBLIC}\n'


def test_authorized_keys_line_for_a_moment() -> None:
    """Have the gate write down where the key comes from, with no word for a shell."""
    known = {"__standby_from": [], "__standby_public_key": PUBLIC, "__standby_moment": "+open"}
    line = render("authorized_keys.j2", **known, __standby_learned_file="/var/lib/barman/.learned")
    command = f"/usr/local/bin/barman-wal-gate {KEY} --learn /var/lib/barman/.learned angus"
    assert line == f'restrict,command="{command}" {PUBLIC}+open\n'
    assert re.fullmatch("[A-Za-z0-9 /:+.-]+", command)


@pytest.mark.parametrize(
    "hostile",
    [
        '*",port-forwarding,pty,permitopen="127.0.0.1:5432',
        '10.0.0.9"\nssh-ed25519 AAAA attacker\n#',
        "10.0.0.9\n",
        "10.0.0.9 ",
        "10.0.0.9,*",
        "10.0.0.9\\",
        "",
    ],
)
def test_hostile_address(hostile: str) -> None:
    """Make no line of what is no address, whoever has said it."""
    with pytest.raises(AnsibleError, match="from= in authorized_keys cannot hold"):
        render("authorized_keys.j2", __standby_from=["10.0.0.3", hostile], __standby_public_key=PUBLIC)


def test_ssh_config_pinned_keys() -> None:
    """Trust only the host keys that are pinned."""
    found = {"barman": {"address": "10.0.0.2", "port": "22", "user": "barman"}}
    text = render("ssh_config.j2", __standby_barmans=found, __standby_key_file="/home/pg/.ssh/walbasin_angus")
    assert {
        "Host barman",
        "HostName 10.0.0.2",
        "IdentityFile /home/pg/.ssh/walbasin_angus",
        "BatchMode yes",
        "IdentitiesOnly yes",
        "StrictHostKeyChecking yes",
        "UserKnownHostsFile /etc/walbasin/angus/known_hosts",
        "GlobalKnownHostsFile /dev/null",
    } <= {line.strip() for line in text.splitlines()}


def test_ssh_config_of_several_hosts(tmp_path: Path) -> None:
    """Have ssh itself say where it would go, and as whom."""
    found = {
        "barman": {"address": "10.0.0.2", "port": "22", "user": "barman"},
        "barman2": {"address": "b2.lan", "port": "2222", "user": "backup"},
    }
    file = tmp_path / "ssh_config"
    file.write_text(render("ssh_config.j2", **TWO, __standby_barmans=found, __standby_key_file="/key"))
    for name, barman in found.items():
        command = ["ssh", "-G", "-F", str(file), name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        wanted = [f"hostname {barman['address']}", f"port {barman['port']}", f"user {barman['user']}"]
        assert {*wanted, "identityfile /key", "stricthostkeychecking true", "batchmode yes"} <= {*said}


def test_known_hosts_of_several_hosts() -> None:
    found = {
        "barman": {"address": "10.0.0.2", "port": "22", "host_keys": ["ssh-ed25519 A"]},
        "barman2": {"address": "b2.lan", "port": "2222", "host_keys": ["ssh-ed25519 B", "ssh-rsa C"]},
    }
    lines = render("known_hosts.j2", **TWO, __standby_barmans=found).splitlines()[1:]
    assert lines == ["10.0.0.2 ssh-ed25519 A", "[b2.lan]:2222 ssh-ed25519 B", "[b2.lan]:2222 ssh-rsa C"]


def test_record_of_several_hosts() -> None:
    record = json.loads(render("standby.json.j2", **cluster(), **TWO))
    assert record["barman_host"] == "barman,barman2"
    assert record["restore_command"].endswith(' barman,barman2 angus %f "%p"')


ABOUT = COMMAND.replace('%f "%p"', "test pg_wal/test")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, ABOUT.replace(" --ssh", " -t --ssh", 1)),
        ({"standby_spool_dir": "/wal/100% $HOME"}, "--spool-dir '/wal/100%% $$HOME' "),  # systemd.service(5)
    ],
)
def test_hourly_test_command(variables: Dict[str, Any], line: str) -> None:
    """Reach Barman in the same way as restore_command does."""
    lines = render("test.service.j2", __standby_option="-t", **cluster(), **variables).splitlines()
    assert any(each.startswith("ExecStart=") and line in each for each in lines)
    assert "User=postgres" in lines
    assert "WorkingDirectory=/var/lib/postgresql/15/main" in lines


def test_whole_metrics_file() -> None:
    """Let the exporter read only a file that is whole."""
    option, folder = "--status --prometheus", "/srv/prom"
    lines = render("metrics.service.j2", __standby_option=option, **cluster(), standby_metrics_dir=folder).splitlines()
    written = "/srv/prom/walbasin_angus.prom.new"
    assert f"StandardOutput=file:{written}" in lines
    assert "ExecStart=" + ABOUT.replace(" --ssh", f" {option} --ssh", 1) in lines
    assert f"ExecStartPost=+/bin/mv -f {written} /srv/prom/walbasin_angus.prom" in lines
