"""Test what the role decides about a cluster that Patroni manages."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ansible.template import trust_as_template  # type: ignore[import-untyped]

from tests.support.role_templar import ROLE, cluster, load, slurped, value_of
from tests.unit.test_templates import COMMAND

P = "/usr/local/bin/barman-wal-restore"
SHELL_GUARD = f"[ -x {P} ] && exec {COMMAND}"
PLAIN_GUARD = """/bin/sh -c '[ -x "$0" ] && exec "$0" "$@"' """ + COMMAND
FILE = "/etc/patroni/15-main.yml"
OURS = {"postgresql": {"recovery_conf": {"restore_command": SHELL_GUARD}}}


def member(
    dynamic: Any = None, version: str = "15", local: Any = None, members: List[str] | None = None, **more: Any
) -> Dict[str, Any]:
    """Return a member of a Patroni cluster as tasks/find_patroni.yml finds it."""
    settings = {"scope": "15-main", "name": "chris", "postgresql": local or {}}
    listed = [{"Member": name, "Role": "Replica"} for name in members or ["angus", "chris"]]
    return {
        **cluster(version),
        "__standby_processes": {"stdout": f"17 /usr/bin/python3 /usr/bin/patroni {FILE}"},
        "__standby_patroni_found": {"stdout": f"other /etc/patroni/9.6-old.yml\nown {FILE}"},
        "__standby_patroni_read": slurped(json.dumps(settings)),
        "__standby_dynamic_shown": {"rc": 0, "stdout": json.dumps(dynamic or {})},
        "__standby_patroni_listed": {"rc": 0, "stdout": json.dumps(listed)},
        **more,
    }


def is_refused(name: str, known: Dict[str, Any]) -> bool:
    """Return whether preflight_patroni.yml refuses, with words of the task's name."""
    outer = load(ROLE / "tasks/preflight_patroni.yml")
    tasks = [*outer, *(inner for task in outer for inner in task.get("block", []))]
    task = next(each for each in tasks if name in each["name"])
    own = task.get("vars", {})
    return not value_of(task["ansible.builtin.assert"]["that"], **known, **own)


@pytest.mark.parametrize(
    ("processes", "calls"),
    [
        ("", []),
        (f"17 /usr/bin/python3 /usr/bin/patroni {FILE}", [["/usr/bin/patroni", FILE]]),
        ("17 /opt/p/bin/python3.11 -u /opt/p/bin/patroni /etc/p.yml", [["/opt/p/bin/patroni", "/etc/p.yml"]]),
        (
            "17 patroni /etc/patroni.yml\n18 patroni /srv/b.yml",
            [["patroni", "/etc/patroni.yml"], ["patroni", "/srv/b.yml"]],
        ),
        ("17 /usr/bin/patroni", []),
        ("17 /usr/bin/patroni b.yml", []),
        ("17 vi /etc/patroni/patroni.yml\n18 runuser -u postgres -- /usr/bin/patroni /etc/p.yml", []),
    ],
)
def test_running_programs(processes: str, calls: List[List[str]]) -> None:
    found = value_of("__standby_patroni_calls", __standby_processes={"stdout": processes})
    assert [list(each) for each in found] == calls


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("  data_dir: DATA", "own"),
        ("    data_dir: DATA/", "own"),
        ("  data_dir: 'DATA'", "own"),
        ('  data_dir: "DATA" # of this member', "own"),
        ("  data_dir: DATA   # of this member", "own"),
        ("  data_dir: LINK", "own"),
        ("  data_dir: DATA2", "other"),
        ("  data_dir: /srv/a b", "other"),
        ("  #data_dir: DATA", ""),
        ("data_dir: DATA", ""),
        ("", ""),
    ],
)
def test_configuration_file(tmp_path: Path, line: str, word: str) -> None:
    data, file = tmp_path / "main", tmp_path / "p.yml"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    line = line.replace("DATA", str(data)).replace("LINK", str(tmp_path / "link"))
    file.write_text(f"scope: 15-main\npostgresql:\n{line}\n")
    script = value_of("__standby_find_patroni")
    words = ["sh", "-c", script, "sh", str(data), str(file), str(tmp_path / "none.yml")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said == (f"{word} {file}\n" if word else "")


@pytest.mark.parametrize(
    ("processes", "found", "files", "is_unclear"),
    [
        ("", "", {}, False),
        ("", "", {"patroni_dynamic_json": ""}, True),
        ("", f"own {FILE}", {"patroni_dynamic_json": ""}, False),
        (f"17 patroni {FILE}", f"own {FILE}", {}, False),
        # Another cluster's, on the same host.
        ("17 patroni /srv/b.yml", "other /srv/b.yml", {}, False),
        ("17 patroni /srv/b.yml", "other /srv/b.yml", {"patroni_dynamic_json": ""}, True),
        # A folder, a file that cannot be read, the environment.
        ("17 patroni /etc/patroni", "", {}, True),
        ("17 patroni /etc/patroni", f"own {FILE}", {}, True),
        ("17 patroni /etc/patroni/", f"own {FILE}", {}, True),
        ("17 patroni /etc/patro", f"own {FILE}", {}, False),
        ("17 patroni", "other /srv/b.yml", {}, True),
    ],
)
def test_patroni_without_a_file(processes: str, found: str, files: Dict[str, str], is_unclear: bool) -> None:
    known = {
        **cluster(**files),
        "__standby_processes": {"stdout": processes},
        "__standby_patroni_found": {"stdout": found},
    }
    assert value_of("__standby_is_patroni_unclear", **known) is is_unclear
    assert is_refused("whose configuration is not found", known) is is_unclear


def test_program_of_the_running_patroni() -> None:
    path = value_of("__standby_patroni_path.PATH", **member())
    assert path == "/usr/bin:/usr/local/bin:/usr/bin:/bin"
    calls = {"stdout": f"17 /opt/p/bin/python3 /opt/p/bin/patroni {FILE}"}
    assert value_of("__standby_patroni_path.PATH", **member(__standby_processes=calls)).startswith("/opt/p/bin:")
    assert value_of("__standby_patronictl", **member())[-2:] == ["-c", FILE]


IN_DATA = {"__standby_config_paths": {"stdout": "/etc/postgresql\n/var/lib/postgresql/15/main/postgresql.conf"}}


@pytest.mark.parametrize(
    ("version", "places", "command"),
    [
        ("12", {}, PLAIN_GUARD),
        ("12", IN_DATA, PLAIN_GUARD),
        ("13", {}, PLAIN_GUARD),
        ("13", IN_DATA, SHELL_GUARD),
        ("14", {}, PLAIN_GUARD),
        ("14", IN_DATA, SHELL_GUARD),
        ("15", {}, SHELL_GUARD),
        ("15", IN_DATA, SHELL_GUARD),
    ],
)
def test_guard(version: str, places: Dict[str, Any], command: str) -> None:
    """Do without a shell where Patroni itself runs the command, before pg_rewind."""
    data = "/var/lib/postgresql/15/main"
    known = {**member(), **cluster(version, data), **places}
    assert value_of("__standby_restore_command", **known) == command


@pytest.mark.parametrize("version", ["12", "15"])
@pytest.mark.parametrize("has_shell", [True, False])
@pytest.mark.parametrize("is_installed", [True, False])
def test_command_without_program(tmp_path: Path, version: str, has_shell: bool, is_installed: bool) -> None:
    """End with 1, never above 125, in a shell or without."""
    if version == "15" and not has_shell:
        pytest.skip("never called without a shell")
    program = tmp_path / "barman-wal-restore"
    if is_installed:
        program.write_text('#!/bin/sh\n[ "$#" -gt 9 ] && exit 42\n')
        program.chmod(0o755)
    known = {**member(), **cluster(version, "/var/lib/postgresql/15/main")}
    call = value_of("__standby_restore_command", **known).replace(P, str(program))
    call = call.replace("%f", "00000002.history").replace("%p", "pg_wal/a b")
    words = ["sh", "-c", call] if has_shell else shlex.split(call)
    assert subprocess.run(words, check=False).returncode == (42 if is_installed else 1)


@pytest.mark.parametrize(
    ("name", "hides"),
    [
        ("recovery_end_command", True),
        ("recovery_target", True),
        ("recovery_target_timeline", True),
        ("trigger_file", True),
        ("PRIMARY_CONNINFO", True),
        ("recovery_prefetch", False),
        ("recovery_init_sync_method", False),
        ("archive_command", False),
    ],
)
def test_recovery_parameters(name: str, hides: bool) -> None:
    assert value_of("name is match(__standby_recovery_parameters)", name=name) is hides


LATER = {"recovery_min_apply_delay": "4h"}
OBSTACLES: List[Any] = [
    ({}, {}, []),
    (OURS, {}, []),
    ({"postgresql": {"parameters": {"max_connections": 100, "recovery_prefetch": "off"}}}, {}, []),
    ({"postgresql": {"parameters": LATER}}, {}, ["parameters.recovery_min_apply_delay in the dynamic configuration"]),
    (
        {"postgresql": {"parameters": {"Restore_Command": "x"}}},
        {},
        ["parameters.Restore_Command in the dynamic configuration"],
    ),
    ({"postgresql": {"parameters": None, "recovery_conf": None}}, {"parameters": None, "recovery_conf": {}}, []),
    ({}, {"parameters": LATER}, [f"parameters.recovery_min_apply_delay in {FILE}"]),
    ({}, {"recovery_conf": LATER}, [f"recovery_conf without this restore_command in {FILE}"]),
    ({}, {"recovery_conf": {"restore_command": "cp"}}, [f"recovery_conf without this restore_command in {FILE}"]),
    ({}, {"recovery_conf": {**LATER, "restore_command": SHELL_GUARD}}, []),
]


@pytest.mark.parametrize(("dynamic", "local", "obstacles"), OBSTACLES)
def test_settings_that_would_hide_it(dynamic: Any, local: Any, obstacles: List[str]) -> None:
    known = member(dynamic, local=local)
    assert value_of("__standby_patroni_obstacles", **known) == obstacles
    assert is_refused("settings that would hide", known) is bool(obstacles)


@pytest.mark.parametrize(
    ("command", "is_foreign"),
    [
        (None, False),
        ("", False),
        (SHELL_GUARD, False),
        (PLAIN_GUARD, False),
        (f"{P} -p 2 b a %f %p", False),
        ("cp /a/%f %p", True),
    ],
)
def test_command_of_somebody_else(command: Any, is_foreign: bool) -> None:
    known = member({"postgresql": {"recovery_conf": {"restore_command": command}}})
    assert is_refused("somebody else", known) is is_foreign


@pytest.mark.parametrize(
    ("words", "known", "is_wrong"),
    [
        ("PostgreSQL before 12", member(), False),
        ("PostgreSQL before 12", member(version="11"), True),
        ("standby cluster", member(), False),
        ("standby cluster", member({"standby_cluster": None}), False),
        ("standby cluster", member({"standby_cluster": {"host": "x"}}), True),
        ("what Patroni decides", member(), False),
        ("what Patroni decides", member(standby_primary_conninfo="host=angus"), True),
        ("what Patroni decides", member(standby_primary_slot_name="chris"), True),
        ("what Patroni decides", member(standby_recovery_target_timeline="3"), True),
        ("what Patroni decides", member(standby_trigger_file="/tmp/x"), True),
        ("without permission", member(), False),
        ("without permission", member(version="14"), False),
        ("without permission", member(version="13"), True),
        ("without permission", member(version="13", standby_allow_restart=True), False),
    ],
)
def test_refusals(words: str, known: Dict[str, Any], is_wrong: bool) -> None:
    assert is_refused(words, known) is is_wrong


def test_permission_for_second_run() -> None:
    known = member(version="13")
    command = value_of("__standby_restore_command", **known)
    again = member({"postgresql": {"recovery_conf": {"restore_command": command}}}, version="13")
    assert not is_refused("without permission", again)


def host(name: str, cluster_name: str = "angus 15-main", command: str = SHELL_GUARD) -> Dict[str, Any]:
    return {
        "inventory_hostname": f"{name}.lan",
        "__standby_patroni": {"cluster": cluster_name, "member": name, "restore_command": command},
    }


@pytest.mark.parametrize(
    ("hosts", "writes", "elsewhere"),
    [
        (["chris.lan"], True, ["angus", "bon"]),
        (["angus.lan", "chris.lan"], False, ["bon"]),
        (["chris.lan", "angus.lan"], True, ["bon"]),
        (["plain.lan", "other.lan", "chris.lan", "bon.lan", "angus.lan"], True, []),
    ],
)
def test_members_in_a_run(hosts: List[str], writes: bool, elsewhere: List[str]) -> None:
    """Let one of a cluster write, and name those that are not in the run."""
    known = {f"{name}.lan": host(name) for name in ("angus", "bon", "chris")}
    known["plain.lan"] = {"inventory_hostname": "plain.lan"}
    known["other.lan"] = host("other", "berta 15-main")
    more: Dict[str, Any] = {"inventory_hostname": "chris.lan", "ansible_play_hosts": hosts, "hostvars": known}
    run = member(members=["angus", "bon", "chris"], **more)
    assert value_of("__standby_writes_dynamic", **run) is writes
    assert value_of("__standby_members_elsewhere", **run) == elsewhere


def test_members_with_different_commands() -> None:
    known = {"chris.lan": host("chris"), "angus.lan": host("angus"), "bon.lan": host("bon", command="other")}
    run = member(inventory_hostname="chris.lan", hostvars=known, ansible_play_hosts=["angus.lan", "chris.lan"])
    assert not is_refused("different commands", run)
    run["ansible_play_hosts"] = list(known)
    assert value_of("__standby_other_texts", **run) == ["bon.lan"]
    assert is_refused("different commands", run)


@pytest.mark.parametrize(("dynamic", "seconds"), [({}, 50), ({"loop_wait": 2}, 34), ({"loop_wait": None}, 30)])
def test_patience(dynamic: Any, seconds: int) -> None:
    assert value_of("__standby_patroni_patience", **member(dynamic)) == seconds


WELL = {"rc": 0, "stdout": "[]", "stderr": ""}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        (
            {"__standby_patroni_listed": {**WELL, "rc": 124, "stdout": ""}},
            ": it took more than a minute. Run patronictl -c",
        ),
        ({"__standby_dynamic_shown": {**WELL, "rc": 124}}, ": it took more than a minute. Run patronictl -c"),
        ({"__standby_patroni_listed": {**WELL, "rc": 1, "stderr": "Traceback\nNo etcd\n"}}, ": No etcd Run patronictl"),
        (
            {"__standby_patroni_listed": {**WELL, "rc": 1, "msg": "non-zero return code"}},
            ": it says nothing. Run patronictl",
        ),
        ({"__standby_patroni_read": slurped("postgresql: {}")}, "does not say the name of the member"),
        ({"__standby_patroni_read": slurped("7")}, "does not say the name of the member"),
    ],
)
def test_patroni_that_does_not_tell(changes: Dict[str, Any], words: str) -> None:
    known = {**member(), "__standby_dynamic_shown": WELL, "__standby_patroni_listed": WELL, **changes}
    (block,) = (task for task in load(ROLE / "tasks/find_patroni.yml") if "block" in task)
    (task,) = (each for each in block["block"] if "does not tell" in each["name"])
    conditions = task["ansible.builtin.assert"]["that"]
    assert all(value_of(f"({each}) | bool", **known) for each in conditions) is (words == "")
    message = task["ansible.builtin.assert"]["fail_msg"]
    assert words in value_of("message", **known, message=trust_as_template(message))
