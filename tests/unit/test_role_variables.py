"""Test the role's variables: what a user can set, and what the role computes."""

from typing import Any, Dict, List

import pytest

from tests.support.role_templar import ROLE, cluster, load, slurped, value_of

SPECS = load(ROLE / "meta/argument_specs.yml")["argument_specs"]
OPTIONS: Dict[str, Dict[str, Any]] = SPECS["main"]["options"]
DEFAULTS = load(ROLE / "defaults/main.yml")
MAIN = "/var/lib/postgresql/15/main"


def test_names_in_defaults_and_argument_specs() -> None:
    assert {name for name, spec in OPTIONS.items() if not spec.get("required")} == set(DEFAULTS)


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_values_in_defaults_and_argument_specs(name: str) -> None:
    assert OPTIONS[name]["default"] == DEFAULTS[name]


def test_variables_of_entry_points() -> None:
    assert SPECS["verify"]["options"] == OPTIONS


def test_descriptions() -> None:
    assert all(OPTIONS[name]["description"] for name in OPTIONS)


def misspelt(unknown: List[str], known: List[str]) -> List[str]:
    """Return what preflight refuses of these unknown variables."""
    task = load(ROLE / "tasks/preflight_variables.yml")[0]
    value = task["vars"]["__standby_misspelt"].removeprefix("{{").removesuffix("}}")
    return list(value_of(value, __standby_unknown=unknown, __standby_known=known))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("standby_paralel", "standby_parallel"),
        ("standby_parralell", "standby_parallel"),
        ("standby_paralle", "standby_parallel"),
        ("standby_barman_host", "standby_barman_hosts"),
        ("standby_barman_hots", "standby_barman_hosts"),
        ("standby_barman_sever", "standby_barman_server"),
        ("standby_barmanport", "standby_barman_port"),
        ("standby_barman_adress", "standby_barman_address"),
        ("standby_sleap", "standby_sleep"),
        ("standby_Sleep", "standby_sleep"),
        ("standby_spool_dirs", "standby_spool_dir"),
        ("standby_recoverytargettimeline", "standby_recovery_target_timeline"),
        ("standby_port", ""),
        ("standby_host", ""),
        ("standby_hosts", ""),
        ("standby_name", ""),
        ("standby_server", ""),
        ("standby_slots", ""),
        ("standby_step", ""),
        ("standby_spool", ""),
        ("standby_postgres_port", ""),
        ("standby_barman_home", ""),
        ("standby_barman_pool", ""),
        ("standby_barman_hostname", ""),
        ("standby_recovery_target", ""),
    ],
)
def test_misspelt_variables(name: str, meant: str) -> None:
    """Take no variable of a site for one of the role's: it is far from them all."""
    assert misspelt([name], list(OPTIONS)) == ([f"{name} (did you mean {meant}?)"] if meant else [])


def test_several_misspelt_variables() -> None:
    refused = misspelt(["standby_paralel", "standby_port", "standby_sleeep"], list(OPTIONS))
    assert [line.split()[0] for line in refused] == ["standby_paralel", "standby_sleeep"]


def test_distance_between_own_variables() -> None:
    """Take no variable of the role for a misspelling of another."""
    for name in OPTIONS:
        assert misspelt([name], [other for other in OPTIONS if other != name]) == []


@pytest.mark.parametrize(
    ("hostvars", "address"),
    [({}, "barman"), ({"barman": {}}, "barman"), ({"barman": {"ansible_host": "10.0.0.2"}}, "10.0.0.2")],
)
def test_barman_address(hostvars: Dict[str, Any], address: str) -> None:
    assert value_of("__standby_barman_address", hostvars=hostvars) == address
    assert value_of("__standby_barman_address", hostvars=hostvars, standby_barman_address="b.lan") == "b.lan"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("barman", ["barman"]),
        (["barman"], ["barman"]),
        (["barman2", "barman"], ["barman2", "barman"]),
        ([], []),
        ("", [""]),
        (["barman", None], ["barman", ""]),
        ("barman,barman2", ["barman,barman2"]),
    ],
)
def test_barman_hosts(given: Any, names: List[str]) -> None:
    assert value_of("__standby_barman_hosts", standby_barman_hosts=given) == names


def mistake(names: Any) -> str:
    """Return what preflight refuses of these Barman hosts."""
    task = next(
        each for each in load(ROLE / "tasks/preflight_variables.yml") if "a list of Barman hosts" in each["name"]
    )
    known = {name: text for name, text in task["vars"].items() if name != "__standby_mistake"}
    expression = task["vars"]["__standby_mistake"].removeprefix("{{").removesuffix("}}")
    return str(value_of(expression, **known, standby_barman_hosts=names))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("barman", ""),
        ([f"barman{number}" for number in range(8)], ""),
        ([], "no Barman host is named"),
        ("", "a name is empty"),
        (["barman", None], "a name is empty"),
        (["barman", ""], "a name is empty"),
        ("barman,barman2", "barman,barman2 has a comma. Write a list"),
        (["barman", "a,b"], "a,b has a comma"),
        (["barman", "barman2", "barman"], "barman is named twice"),
        ([f"barman{number}" for number in range(9)], "9 Barman hosts are named, and 8 is as many"),
    ],
)
def test_mistakes_in_barman_hosts(names: Any, words: str) -> None:
    found = mistake(names)
    assert found.startswith(words) and bool(found) is bool(words)


OWN = {"address": "b2.lan", "port": 2222, "user": "backup", "config": "/etc/b2.conf", "host_key": "K", "managed": False}


@pytest.mark.parametrize("name", list(OWN))
def test_variables_of_a_barman_host(name: str) -> None:
    """Let what is said on a Barman host count before what is said on the standby."""
    common = {"address": "b.lan", "port": 23, "user": "b", "config": "/b.conf", "host_key": "C", "managed": True}
    known = {f"standby_barman_{each}": value for each, value in common.items()}
    known |= {"hostvars": {"barman2": {f"standby_barman_{name}": OWN[name]}}}
    kind = str if name == "port" else lambda value: value
    assert value_of(f"__standby_barman_{name}", **known, __standby_barman="barman2") == kind(OWN[name])
    assert value_of(f"__standby_barman_{name}", **known, __standby_barman="barman") == kind(common[name])
    assert value_of(f"__standby_barman_{name}", **known, __standby_barman="stranger") == kind(common[name])


@pytest.mark.parametrize("managed", [False, "false", "no"])
def test_foreign_barman_hosts(managed: Any) -> None:
    known = {
        "standby_barman_hosts": ["b1", "b2", "b3"],
        "hostvars": {"b1": {}, "b2": {"standby_barman_managed": managed}},
    }
    assert value_of("__standby_foreign_barman_hosts", **known) == ["b2"]
    assert value_of("__standby_foreign_barman_hosts", **known, standby_barman_managed=False) == ["b1", "b2", "b3"]


@pytest.mark.parametrize(
    ("recorded", "former"),
    [
        ({"msg": "not there"}, []),
        (slurped('{"barman_host": "barman"}'), []),
        (slurped('{"barman_host": "barman,barman3,barman2"}'), ["barman3"]),
        (slurped("{}"), []),
    ],
)
def test_former_barman_hosts(recorded: Dict[str, Any], former: List[str]) -> None:
    known = {"standby_barman_hosts": ["barman2", "barman"], "__standby_recorded": recorded}
    assert value_of("__standby_former_barman_hosts", **known) == former


def found(*clusters: str, **known: Any) -> List[str]:
    """Return the chosen ones where Debian's tools list these (version:directory)."""
    pairs = [name.split(":") for name in clusters]
    where = {
        "__standby_lsclusters": {"stdout_lines": [f"{v} main 5432 down postgres {d} /log" for v, d in pairs]},
        "__standby_pgdg": {"stdout_lines": []},
        "__standby_socket_locks": {"results": []},
        "__standby_versions": {"results": [slurped(f"{v}\n", item=d) for v, d in pairs]},
    }
    return [chosen["directory"] for chosen in value_of("__standby_chosen", **{**where, **known})]


def test_cluster_chosen_by_version() -> None:
    both = (f"15:{MAIN}", "13:/var/lib/postgresql/13/main")
    assert len(found(*both)) == 2
    assert found(*both, standby_postgres_version="13") == ["/var/lib/postgresql/13/main"]
    assert found(*both, standby_postgres_version=15) == [MAIN]
    assert found(*both, standby_postgres_version="14") == []


def test_folder_without_version() -> None:
    assert found(__standby_versions={"results": [{"item": MAIN, "msg": "file not found"}]}) == []


def test_directories() -> None:
    known = {
        "__standby_lsclusters": {"stdout_lines": [f"15 main 5432 online postgres {MAIN} /log"]},
        "__standby_pgdg": {"stdout_lines": ["/var/lib/pgsql/14/data/PG_VERSION"]},
        "__standby_socket_locks": {"results": [slurped(f"17\n{MAIN}\n1\n5432\n"), slurped("18\n/srv/pg\n1\n5433\n")]},
    }
    assert value_of("__standby_directories", **known) == [MAIN, "/var/lib/pgsql/14/data", "/srv/pg"]
    assert value_of("__standby_directories", **known, standby_data_directory="/srv/a/") == ["/srv/a"]


def test_host_without_debian_tools() -> None:
    known = {"__standby_lsclusters": {"rc": 2}, "__standby_pgdg": {"stdout_lines": []}}
    assert value_of("__standby_directories", **known, __standby_socket_locks={"results": []}) == []


@pytest.mark.parametrize(
    ("version", "data", "debian", "config", "service"),
    [
        ("15", MAIN, True, "/etc/postgresql/15/main/postgresql.conf", "postgresql@15-main"),
        ("15", "/var/lib/pgsql/15/data", False, "/var/lib/pgsql/15/data/postgresql.conf", "postgresql-15"),
        ("13", "/var/lib/pgsql/data", False, "/var/lib/pgsql/data/postgresql.conf", "postgresql"),
    ],
)
def test_layouts(version: str, data: str, debian: bool, config: str, service: str) -> None:
    known = cluster(version, data)
    if not debian:
        known["__standby_lsclusters"] = {"stdout_lines": []}
    assert value_of("__standby_config_file", **known) == config
    assert value_of("__standby_service_name", **known) == service
    assert value_of("__standby_service_name", **known, standby_service="pg") == "pg"


@pytest.mark.parametrize(("unit", "service"), [("pg11.service", "pg11.service"), ("", "postgresql")])
def test_service_of_running_server(unit: str, service: str) -> None:
    """Find no service of a server that a person or a cluster manager started."""
    known = cluster("11", "/srv/pg11/data") | {"__standby_lsclusters": {"stdout_lines": []}}
    assert value_of("__standby_service_name", **known, __standby_unit={"stdout": unit}) == service


@pytest.mark.parametrize(
    ("process", "answer", "running", "config"),
    [
        ([], {}, False, "/etc/postgresql/15/main/postgresql.conf"),
        (["/srv", "/usr/bin/sleep"], {}, False, "/etc/postgresql/15/main/postgresql.conf"),
        (["/srv/2", "/usr/lib/postgresql/15/bin/postgres"], {}, False, "/etc/postgresql/15/main/postgresql.conf"),
        (
            [MAIN, "/usr/lib/postgresql/15/bin/postgres"],
            {"rc": 0, "stdout": '{"config_file": "/a.conf"}'},
            True,
            "/a.conf",
        ),
        ([MAIN, "/usr/edb/as15/bin/edb-postgres"], {"rc": 0, "stdout": '{"config_file": "/a.conf"}'}, True, "/a.conf"),
        ([MAIN, "/nix/store/x/bin/.postgres-wrapped"], {"rc": 2}, True, "/etc/postgresql/15/main/postgresql.conf"),
        ([MAIN, "/opt/bin/postgres (deleted)"], {"rc": 2}, True, "/etc/postgresql/15/main/postgresql.conf"),
    ],
)
def test_running_server(process: list[str], answer: Any, running: bool, config: str) -> None:
    """Take for the server what works in the data directory, whatever it is called."""
    known = {
        **cluster(postmaster_pid="17\n"),
        "__standby_postmaster_program": {"stdout_lines": process},
        "__standby_server_query": answer,
    }
    assert value_of("__standby_running", **known) is running
    assert value_of("__standby_config_file", **known) == config


@pytest.mark.parametrize(
    ("pg_wal", "spool"),
    [
        (f"{MAIN}/pg_wal", "/var/lib/postgresql/15/walbasin_main"),
        ("/wal/15/main", "/wal/15/walbasin_main"),
        (f"{MAIN}_wal", "/var/lib/postgresql/15/walbasin_main"),
    ],
)
def test_spool_folder(pg_wal: str, spool: str) -> None:
    known = {**cluster(), "__standby_real_paths": {"stdout_lines": [MAIN, pg_wal]}}
    assert value_of("__standby_spool_dir", **known) == spool
    assert value_of("__standby_spool_dir", **known, standby_spool_dir="/spool") == "/spool"


@pytest.mark.parametrize(
    ("configuration", "file"),
    [
        ("port = 5432\ninclude_dir = 'conf.d'\t# Debian\n", "/etc/postgresql/15/main/conf.d/walbasin.conf"),
        ("include_dir '/etc/pg.d'\n", "/etc/pg.d/walbasin.conf"),
        ("#include_dir = 'conf.d'\n", "/etc/postgresql/15/main/walbasin.conf"),
        ("Include_Dir='a'\ninclude_dir = 'b'\n", "/etc/postgresql/15/main/b/walbasin.conf"),
    ],
)
def test_settings_file(configuration: str, file: str) -> None:
    known = {**cluster(), "__standby_config": slurped(configuration)}
    folder = value_of("[__standby_config_file | dirname, __standby_include_dir] | path_join", **known)
    known["__standby_settings_folder"] = {"stdout": folder.rstrip("/")}
    assert value_of("__standby_settings_file", **known) == file


@pytest.mark.parametrize(
    ("version", "files", "is_standby"),
    [
        ("15", {"standby_signal": ""}, True),
        ("15", {}, False),
        ("15", {"recovery_signal": ""}, False),
        ("15", {"recovery_signal": "", "standby_signal": ""}, True),
        ("11", {"recovery_conf": "standby_mode = 'on'\n"}, True),
        ("11", {"recovery_conf": "STANDBY_MODE = TRUE\n"}, True),
        ("11", {"recovery_conf": "standby_mode 'on'\nstandby_mode = off\n"}, False),
        ("11", {"recovery_conf": "#standby_mode = on\nrestore_command = 'x'\n"}, False),
        ("11", {}, False),
    ],
)
def test_standby_signal(version: str, files: Dict[str, str], is_standby: bool) -> None:
    assert value_of("__standby_has_standby_signal", **cluster(version, **files)) is is_standby


@pytest.mark.parametrize(
    ("started", "written", "pending"),
    [("99", False, ["recovery.conf"]), ("100", False, []), ("100", True, ["recovery.conf"])],
)
def test_pending_restart_before_12(started: str, written: bool, pending: List[str]) -> None:
    known = cluster("11", recovery_conf="", postmaster_pid=f"17\n/data\n{started}\n5432\n")
    assert (
        value_of("__standby_pending_restart", **known, __standby_recovery_conf_written={"changed": written}) == pending
    )


@pytest.mark.parametrize(
    ("lines", "pending"),
    [({"stdout_lines": ["", '["restore_command"]']}, ["restore_command"]), ({"skipped": True}, [])],
)
def test_pending_restart_from_12(lines: Dict[str, Any], pending: List[str]) -> None:
    assert value_of("__standby_pending_restart", **cluster(), __standby_pending=lines) == pending


@pytest.mark.parametrize(
    ("auto", "shadowed"),
    [
        ("", []),
        ("primary_conninfo = 'host=angus'\n", []),
        ("restore_command = 'cp /wal/%f %p'\n", ["restore_command"]),
        ("restore_command = ''\n", ["restore_command"]),
        ("#restore_command = 'x'\n", []),
        ("recovery_target_timeline = 'latest'\n", []),
        ("recovery_target_timeline = '3'\nrestore_command = 'x'\n", ["recovery_target_timeline", "restore_command"]),
    ],
)
def test_shadowed_settings(auto: str, shadowed: List[str]) -> None:
    assert sorted(value_of("__standby_shadowed", **cluster(postgresql_auto_conf=auto))) == shadowed


@pytest.mark.parametrize(("auto", "shadowed"), [("host=''a''", []), ("host=b", ["primary_conninfo"])])
def test_same_value_in_auto_conf(auto: str, shadowed: List[str]) -> None:
    known = cluster(postgresql_auto_conf=f"primary_conninfo = '{auto}'\n")
    assert value_of("__standby_shadowed", **known, standby_primary_conninfo="host='a'") == shadowed


@pytest.mark.parametrize(
    ("written", "loaded", "is_changed", "command", "is_pending"),
    [
        (100.25, 100.5, False, "", False),
        (100.75, 100.5, False, "", True),
        (100.25, 100.5, True, "", True),
        (100.25, 100.5, False, "/bin/false", True),
    ],
)
def test_reload_pending(written: float, loaded: float, is_changed: bool, command: str, is_pending: bool) -> None:
    known = {
        **cluster(),
        "__standby_settings_written": {"changed": is_changed},
        "__standby_settings_stat": {"stat": {"mtime": written}},
        "__standby_restore_command": "ours",
        "__standby_server_state": {"restore_command": command or "ours", "loaded": loaded},
    }
    assert value_of("__standby_reload_pending", **known) is is_pending


@pytest.mark.parametrize(
    ("path", "is_plain"),
    [
        ("/var/lib/postgresql/15/main", True),
        ("/srv/my data/c++_1.5-x", True),
        ("srv", False),
        ("", False),
        ("/srv/a\r", False),
        ("/srv/a\n", False),
        ("/srv/a\rExecStartPre=+/tmp/evil", False),
        ("/srv/a\n/etc", False),
        ("/srv/\x1b]0;x", False),
        ("/srv/$(id)", False),
        ("/srv/a'b", False),
        ("/srv/a%n", False),
        ("/srv/{{ 7 * 7 }}", False),
        ("/srv/\u2028", False),
    ],
)
def test_plain_path(path: str, is_plain: bool) -> None:
    assert value_of("path is match(__standby_plain_path)", path=path) is is_plain


@pytest.mark.parametrize(
    ("resolved", "config_dir", "path", "is_inside"),
    [
        (["/etc/postgresql"], "", "/etc/postgresql/15/main", True),
        (["/srv/etc"], "", "/srv/etc/15", True),
        (["/etc/postgresql"], "", MAIN, True),
        (["/etc/postgresql"], "", "/etc/postgresql-evil", False),
        (["/etc/postgresql"], "", "/etc/tmpfiles.d", False),
        (["/etc/postgresql"], "", "/", False),
        (["/etc/postgresql", "/opt/pg.conf"], "/opt/pg", "/opt/pg.conf/x", True),
        (["/etc/postgresql", "/opt/pg.conf"], "/opt/pg", "/opt/pgXconf/x", False),
        (["/etc/postgresql"], "", "/etc/tmpfiles.d\n/etc/postgresql", False),
    ],
)
def test_place_of_configuration(resolved: List[str], config_dir: str, path: str, is_inside: bool) -> None:
    """Believe what root and the operator say of places, and nothing behind it."""
    tasks = load(ROLE / "tasks/find_settings.yml")
    task = next(each for each in tasks if "foreign place" in each["name"])
    known = {
        **cluster(),
        "standby_config_dir": config_dir,
        "__standby_config_paths": {"stdout": "\n".join([*resolved, path])},
        "item": path,
    }
    conditions = task["ansible.builtin.assert"]["that"]
    assert value_of("__standby_config_path", **known) == path
    assert all(value_of(each, **known) for each in conditions) is is_inside


@pytest.mark.parametrize(
    ("answer", "control", "is_primary"),
    [
        ({"in_recovery": True}, {}, False),
        ({"in_recovery": False}, {}, True),
        (None, {"skipped": True}, False),
        (None, {"rc": 0, "stdout": "Database cluster state:               in production"}, True),
        (None, {"rc": 0, "stdout": "Database cluster state:               shut down"}, True),
        (None, {"rc": 0, "stdout": "Database cluster state:               shut down in recovery"}, False),
        (None, {"rc": 0, "stdout": "Database cluster state:               in archive recovery"}, False),
        (None, {"rc": 0, "stdout": "Database cluster state:               in crash recovery"}, True),
        (None, {"rc": 1, "stdout": ""}, False),
    ],
)
def test_primary(answer: Any, control: Dict[str, Any], is_primary: bool) -> None:
    known = {
        **cluster(),
        "__standby_server_answers": answer is not None,
        "__standby_server_state": answer or {},
        "__standby_control_data": control,
    }
    assert value_of("__standby_is_primary", **known) is is_primary


@pytest.mark.parametrize(
    ("processes", "files", "managers"),
    [
        ("", {}, []),
        ("17 /usr/bin/python3 /usr/bin/patroni /etc/patroni.yml\n", {}, ["patroni"]),
        ("17 stolon-keeper --data-dir /srv\n18 /usr/bin/pg_autoctl run\n", {}, ["stolon-keeper", "pg_autoctl"]),
        ("17 /usr/lib/postgresql/15/bin/repmgrd -d\n", {}, ["repmgrd"]),
        ("17 /usr/sbin/pacemakerd\n", {}, ["pacemakerd"]),
        ("17 vi /etc/patroni/patroni.yml\n18 /opt/patronized run\n", {}, []),
        ("17 tail -f /var/log/patroni\n18 python3 -m http.server patroni\n", {}, []),
        ("", {"patroni_dynamic_json": ""}, ["patroni"]),
        ("", {"postgresql-auto-failover_conf": ""}, ["pg_autoctl"]),
    ],
)
def test_cluster_managers(processes: str, files: Dict[str, str], managers: List[str]) -> None:
    known = {**cluster(**files), "__standby_processes": {"stdout": processes}}
    assert value_of("__standby_present_managers", **known) == managers


@pytest.mark.parametrize(("found", "managers"), [("/etc/repmgr/15/repmgr.conf\n", ["repmgrd"]), ("", [])])
def test_configured_repmgr(found: str, managers: List[str]) -> None:
    known = {**cluster(), "__standby_processes": {"stdout": ""}, "__standby_repmgr": {"stdout": found}}
    assert value_of("__standby_present_managers", **known) == managers


def test_pending_restart_of_primary() -> None:
    known = {**cluster(), "__standby_is_primary": True, "__standby_pending": {"stdout_lines": ['["restore_command"]']}}
    assert value_of("__standby_pending_restart", **known) == []


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ("", []),
        ("# Written by Ansible\nrestore_command = 'x'\n", []),
        (
            "restore_command = 'x'\nrecovery_target_timeline = 'latest'\nprimary_conninfo = 'y'\n",
            ["recovery_target_timeline", "primary_conninfo"],
        ),
    ],
)
def test_settings_that_stay(settings: str, others: List[str]) -> None:
    """Keep what the server streams with; a line less would wait for a restart."""
    assert (
        value_of("__standby_other_settings", **{**cluster(), "__standby_settings_present": slurped(settings)}) == others
    )


OTHERS = (
    'restrict,from="10.0.0.9",command="x" ssh-ed25519 OLD walbasin:chris2:angus\n'
    'restrict,from="10.0.0.9",command="x" ssh-ed25519 OLD walbasin:chris:angus-2\n'
)


@pytest.mark.parametrize(
    ("authorized", "address"),
    [
        ({}, ""),
        (slurped(OTHERS), ""),
        (slurped(f'{OTHERS}restrict,from="10.0.0.3",command="x" ssh-ed25519 A walbasin:chris:angus\n'), "10.0.0.3"),
        (slurped('restrict,command="echo" ssh-ed25519 A walbasin:chris:angus\n'), ""),
        (slurped('restrict,from="fe80::1%eth0",command="x" ssh-ed25519 A walbasin:chris:angus\n'), "fe80::1%eth0"),
        (slurped('restrict,from="10.0.0.*",command="x" ssh-ed25519 A walbasin:chris:angus\n'), ""),
        (slurped('restrict,from="10.0.0.3,*",command="x" ssh-ed25519 A walbasin:chris:angus\n'), ""),
        (slurped('restrict,from="10.0.0.3",command="x" ssh-ed25519 A walbasin:chris:angus+open\n'), ""),
    ],
)
def test_present_key_line(authorized: Dict[str, Any], address: str) -> None:
    assert value_of("__standby_key_line_address", __standby_authorized=authorized) == address


@pytest.mark.parametrize(
    ("former", "record", "address"),
    [
        ({"msg": "not there"}, slurped("10.0.0.3 1700000000\n"), "10.0.0.3"),
        (slurped("10.0.0.3 1600000000\n"), slurped("fd00::3 1700000000\n"), "fd00::3"),
        (slurped("10.0.0.3 1600000000\n"), slurped("10.0.0.3 1600000000\n"), ""),  # of an earlier run
        ({}, {"msg": "not there"}, ""),
        ({}, slurped('*",pty 1\n'), ""),
        ({}, slurped("10.0.0.3\n"), ""),  # cut off
        ({}, slurped("\n10.0.0.3 1\n"), ""),
        ({}, slurped("an unknown address 1\n"), ""),
    ],
)
def test_learned_address(former: Dict[str, Any], record: Dict[str, Any], address: str) -> None:
    known = {"__standby_former_record": former, "__standby_record": record}
    assert value_of("__standby_learned_address", **known) == address


@pytest.mark.parametrize(
    ("present", "wanted", "sizes"),
    [
        ({"rc": 1}, "auto", ["ed25519 256", "ecdsa 256", "rsa 3072"]),
        ({"rc": 1}, "rsa", ["rsa 3072"]),
        # A rotation keeps the type, unless another one is wanted.
        ({"rc": 0, "stdout": "ssh-rsa AAAA postgres@chris"}, "auto", ["rsa 3072"]),
        ({"rc": 0, "stdout": "ssh-rsa AAAA"}, "ecdsa", ["ecdsa 256"]),
        ({"rc": 0, "stdout": "ecdsa-sha2-nistp521 AAAA"}, "auto", ["ed25519 256", "ecdsa 256", "rsa 3072"]),
        ({"rc": 0, "stdout": "$(id)"}, "auto", ["ed25519 256", "ecdsa 256", "rsa 3072"]),
    ],
)
def test_types_of_a_new_key(present: Dict[str, Any], wanted: str, sizes: List[str]) -> None:
    known = {"__standby_present_key": present, "standby_key_type": wanted}
    assert (
        value_of("__standby_new_key_sizes", **known, __standby_barmans={"barman": {"refused_key_types": []}}) == sizes
    )


@pytest.mark.parametrize(
    ("refused", "sizes"),
    [
        (["ssh-ed25519"], ["ecdsa 256", "rsa 3072"]),
        (["ssh-ed25519", "ssh-rsa"], ["ecdsa 256"]),
        (["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"], []),
    ],
)
def test_types_that_each_sshd_takes(refused: List[str], sizes: List[str]) -> None:
    """Take a type only where each Barman host takes it: they share one key."""
    found = {"barman": {"refused_key_types": refused[:1]}, "barman2": {"refused_key_types": refused[1:]}}
    known = {"__standby_present_key": {"rc": 1}, "standby_barman_hosts": ["barman", "barman2"]}
    assert value_of("__standby_new_key_sizes", **known, __standby_barmans=found) == sizes


@pytest.mark.parametrize(
    ("printed", "is_trusted"),
    [
        ("/usr/bin/python3", True),
        ("/usr/bin/python3.11", True),
        ("/usr/local/bin/python3", True),
        ("/tmp/evil//usr/bin/python3", False),
        ("/usr/bin/python3\n/tmp/evil", False),
        ("/usr/bin/python3\n", False),
        ("/usr/bin/../../tmp/python3", False),
        ("/usr/local/lib/python3", False),
        ("python3", False),
    ],
)
def test_program_that_root_starts(printed: str, is_trusted: bool) -> None:
    assert (
        value_of("__standby_python.stdout is match(__standby_python_pattern)", __standby_python={"stdout": printed})
        is is_trusted
    )


def test_public_key_comment() -> None:
    public = {"stdout": "ssh-ed25519 AAAA somebody@somewhere else"}
    assert value_of("__standby_public_key", __standby_public=public) == "ssh-ed25519 AAAA walbasin:chris:angus"
