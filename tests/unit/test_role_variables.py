"""The role's variables: what a user can set, and what the role makes of what it finds on a host."""

from typing import Any, Dict, List

import pytest

from tests.standby_role import cluster, load, slurped, value_of

SPECS = load("meta/argument_specs.yml")["argument_specs"]
OPTIONS: Dict[str, Dict[str, Any]] = SPECS["main"]["options"]
DEFAULTS = load("defaults/main.yml")
MAIN = "/var/lib/postgresql/15/main"


def test_defaults_and_argument_specs_know_the_same_variables() -> None:
    assert {name for name, spec in OPTIONS.items() if not spec.get("required")} == set(DEFAULTS)


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_defaults_and_argument_specs_say_the_same(name: str) -> None:
    assert OPTIONS[name]["default"] == DEFAULTS[name]


def test_both_entry_points_take_the_same_variables() -> None:
    assert SPECS["verify"]["options"] == OPTIONS


def test_every_variable_is_explained() -> None:
    assert all(OPTIONS[name]["description"] for name in OPTIONS)


@pytest.mark.parametrize(
    ("hostvars", "address"),
    [({}, "barman"), ({"barman": {}}, "barman"), ({"barman": {"ansible_host": "10.0.0.2"}}, "10.0.0.2")],
)
def test_barman_address_is_the_inventory_s(hostvars: Dict[str, Any], address: str) -> None:
    assert value_of("__standby_barman_address", hostvars=hostvars) == address
    assert value_of("__standby_barman_address", hostvars=hostvars, standby_barman_address="b.lan") == "b.lan"


def found(*clusters: str, **known: Any) -> List[str]:
    """Which clusters are chosen where Debian's tools list these (version:directory)."""
    pairs = [name.split(":") for name in clusters]
    where = {
        "__standby_lsclusters": {"stdout_lines": [f"{v} main 5432 down postgres {d} /log" for v, d in pairs]},
        "__standby_pgdg": {"stdout_lines": []},
        "__standby_locks": {"results": []},
        "__standby_versions": {"results": [slurped(f"{v}\n", item=d) for v, d in pairs]},
    }
    return [chosen["directory"] for chosen in value_of("__standby_chosen", **{**where, **known})]


def test_a_cluster_is_chosen_by_its_version() -> None:
    both = (f"15:{MAIN}", "13:/var/lib/postgresql/13/main")
    assert len(found(*both)) == 2
    assert found(*both, standby_postgres_version="13") == ["/var/lib/postgresql/13/main"]
    assert found(*both, standby_postgres_version=15) == [MAIN]
    assert found(*both, standby_postgres_version="14") == []


def test_a_folder_without_a_version_is_no_cluster() -> None:
    assert found(__standby_versions={"results": [{"item": MAIN, "msg": "file not found"}]}) == []


def test_directories_come_from_debian_pgdg_and_the_sockets_once_each() -> None:
    known = {
        "__standby_lsclusters": {"stdout_lines": [f"15 main 5432 online postgres {MAIN} /log"]},
        "__standby_pgdg": {"stdout_lines": ["/var/lib/pgsql/14/data/PG_VERSION"]},
        "__standby_locks": {"results": [slurped(f"17\n{MAIN}\n1\n5432\n"), slurped("18\n/srv/pg\n1\n5433\n")]},
    }
    assert value_of("__standby_directories", **known) == [MAIN, "/var/lib/pgsql/14/data", "/srv/pg"]
    assert value_of("__standby_directories", **known, standby_data_directory="/srv/a/") == ["/srv/a"]


def test_a_host_without_debian_s_tools() -> None:
    known = {"__standby_lsclusters": {"rc": 2}, "__standby_pgdg": {"stdout_lines": []}}
    assert value_of("__standby_directories", **known, __standby_locks={"results": []}) == []


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
def test_a_running_server_tells_its_service(unit: str, service: str) -> None:
    """A server that a person or a cluster manager started is no service."""
    known = cluster("11", "/srv/pg11/data") | {"__standby_lsclusters": {"stdout_lines": []}}
    assert value_of("__standby_service_name", **known, __standby_unit={"stdout": unit}) == service


@pytest.mark.parametrize(
    ("executable", "answer", "running", "config"),
    [
        ("", {}, False, "/etc/postgresql/15/main/postgresql.conf"),
        ("/usr/bin/sleep", {}, False, "/etc/postgresql/15/main/postgresql.conf"),
        ("/usr/lib/postgresql/15/bin/postgres", {"rc": 0, "stdout": '{"config_file": "/a.conf"}'}, True, "/a.conf"),
        ("/opt/bin/postgres (deleted)", {"rc": 2}, True, "/etc/postgresql/15/main/postgresql.conf"),
    ],
)
def test_a_pid_file_alone_is_no_running_server(executable: str, answer: Any, running: bool, config: str) -> None:
    known = {**cluster(postmaster_pid="17\n"), "__standby_exe": {"stdout": executable}, "__standby_asked": answer}
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
def test_spool_is_beside_pg_wal_and_never_inside_the_data(pg_wal: str, spool: str) -> None:
    known = {**cluster(), "__standby_paths": {"stdout_lines": [MAIN, pg_wal]}}
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
def test_settings_go_where_the_server_looks(configuration: str, file: str) -> None:
    assert value_of("__standby_settings_file", **cluster(), __standby_config=slurped(configuration)) == file


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
def test_what_makes_a_standby(version: str, files: Dict[str, str], is_standby: bool) -> None:
    assert value_of("__standby_signal", **cluster(version, **files)) is is_standby


@pytest.mark.parametrize(
    ("started", "written", "owed"),
    [("99", False, ["recovery.conf"]), ("100", False, []), ("100", True, ["recovery.conf"])],
)
def test_before_12_a_newer_recovery_conf_owes_a_restart(started: str, written: bool, owed: List[str]) -> None:
    known = cluster("11", recovery_conf="", postmaster_pid=f"17\n/data\n{started}\n5432\n")
    assert value_of("__standby_owed", **known, __standby_recovery_conf_written={"changed": written}) == owed


@pytest.mark.parametrize(
    ("lines", "owed"), [({"stdout_lines": ["", '["restore_command"]']}, ["restore_command"]), ({"skipped": True}, [])]
)
def test_from_12_on_the_server_says_what_waits_for_a_restart(lines: Dict[str, Any], owed: List[str]) -> None:
    assert value_of("__standby_owed", **cluster(), __standby_pending=lines) == owed


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
def test_what_postgresql_auto_conf_shadows(auto: str, shadowed: List[str]) -> None:
    assert sorted(value_of("__standby_shadowed", **cluster(postgresql_auto_conf=auto))) == shadowed


@pytest.mark.parametrize(("auto", "shadowed"), [("host=''a''", []), ("host=b", ["primary_conninfo"])])
def test_the_same_value_is_no_shadow(auto: str, shadowed: List[str]) -> None:
    known = cluster(postgresql_auto_conf=f"primary_conninfo = '{auto}'\n")
    assert value_of("__standby_shadowed", **known, standby_primary_conninfo="host='a'") == shadowed


@pytest.mark.parametrize(
    ("written", "loaded", "is_changed", "command", "is_unread"),
    [
        (100.25, 100.5, False, "", False),
        (100.75, 100.5, False, "", True),
        (100.25, 100.5, True, "", True),
        (100.25, 100.5, False, "/bin/false", True),
    ],
)
def test_a_reload_that_a_run_did_not_live_to_do_is_owed(
    written: float, loaded: float, is_changed: bool, command: str, is_unread: bool
) -> None:
    known = {
        **cluster(),
        "__standby_written": {"changed": is_changed},
        "__standby_settings_stat": {"stat": {"mtime": written}},
        "__standby_restore_command": "ours",
        "__standby_answer": {"restore_command": command or "ours", "loaded": loaded},
    }
    assert value_of("__standby_is_unread", **known) is is_unread


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
    ],
)
def test_only_the_standby_s_own_line_is_its_own(authorized: Dict[str, Any], address: str) -> None:
    assert value_of("__standby_line_address", __standby_authorized=authorized) == address


def test_public_key_is_named_after_the_pair() -> None:
    public = {"stdout": "ssh-ed25519 AAAA somebody@somewhere else"}
    assert value_of("__standby_public_key", __standby_public=public) == "ssh-ed25519 AAAA walbasin:chris:angus"
