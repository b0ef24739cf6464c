"""Compute the role's variables and templates as Ansible does, and load its scripts."""

import base64
import functools
import importlib.util
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Dict

from ansible._internal._templating._jinja_bits import (  # type: ignore[import-untyped]
    AnsibleEnvironment,
    _TemplateCompileContext,
)
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.plugins.loader import init_plugin_loader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "standby"
# Where Debian has the configuration of cluster().
ETC = "/etc/postgresql/15/main"

init_plugin_loader()
compiled: Dict[Any, CodeType] = {}


def compile_once(environment: Any, source: Any, *names: Any, **options: Any) -> CodeType:
    """Return the code of a template, which Ansible compiles anew for each value.

    That is half of the time that these tests would take.
    """
    context = _TemplateCompileContext.current(optional=True)
    key = (source, environment.trim_blocks, context and context.escape_backslashes, names, *options.items())
    if key not in compiled:
        compiled[key] = super(AnsibleEnvironment, environment).compile(source, *names, **options)
    return compiled[key]


AnsibleEnvironment.compile = compile_once


def load(path: Path) -> Any:
    """Return the content of a YAML file of the role."""
    return DataLoader().load_from_file(str(path), trusted_as_template=True)


@functools.cache
def role_variables() -> Dict[str, Any]:
    """Return what the role's defaults and vars hold. Nobody may change it."""
    files = [ROLE / "defaults/main.yml", *sorted(ROLE.glob("vars/main/*.yml"))]
    return {name: value for path in files for name, value in load(path).items()}


def value_of(expression: str, **known: Any) -> Any:
    """Return the value of an expression, given what a user set and tasks have read."""
    variables = {
        **role_variables(),
        "role_path": str(ROLE),
        "inventory_hostname": "chris",
        "hostvars": {},
        "standby_barman_hosts": "barman",
        "__standby_barman": "barman",
        "standby_barman_server": "angus",
        **known,
    }
    templar = Templar(loader=DataLoader(), variables=variables)
    return templar.template(trust_as_template("{{ %s }}" % expression))  # noqa: UP031


def render(template: str, **known: Any) -> str:
    """Return the text that a template becomes."""
    return str(value_of(f"lookup('ansible.builtin.template', '{ROOT}/templates/{template}')", **known))


def slurped(text: str, **more: Any) -> Dict[str, Any]:
    """Return a file as the module slurp does."""
    return {"content": base64.b64encode(text.encode()).decode(), **more}


def cluster(version: str = "15", data: str = "/var/lib/postgresql/15/main", **files: str) -> Dict[str, Any]:
    """Return a stopped Debian cluster as tasks/find_cluster.yml finds it.

    Names of files have an underscore here where they have a dot there.
    """
    contents = {name.replace("_", "."): text for name, text in files.items()}
    return {
        "__standby_lsclusters": {"stdout_lines": [f"{version} main 5432 down postgres {data} /var/log/x.log"]},
        "__standby_pgdg": {"stdout_lines": []},
        "__standby_socket_locks": {"results": []},
        "__standby_versions": {"results": [slurped(f"{version}\n", item=data)]},
        "__standby_data_listing": {"files": [{"path": f"{data}/{name}", "mtime": 100.5} for name in contents]},
        "__standby_config_paths": {"stdout": f"/etc/postgresql\n{ETC}/postgresql.conf"},
        "__standby_config": slurped(""),
        "__standby_settings_folder": {"stdout": f"{ETC}/conf.d"},
        "__standby_settings_present": {"skipped": True},
        "__standby_stopped_timeline": {"rc": 0, "stdout": "latest"},
        "__standby_control_data": {"skipped": True},
        "__standby_state_files_read": {"results": [slurped(text, item=name) for name, text in contents.items()]},
        "__standby_postmaster_program": {"stdout_lines": []},
        "__standby_real_paths": {"stdout_lines": [data, f"{data}/pg_wal"]},
    }


def load_script(name: str) -> ModuleType:
    """Return one of the scripts that the role runs on hosts."""
    spec = importlib.util.spec_from_file_location(name, ROLE / "files" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
