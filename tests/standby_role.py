"""The role's variables, computed as Ansible computes them, without a host."""

import base64
from pathlib import Path
from typing import Any, Dict

from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.plugins.loader import init_plugin_loader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
ROLE = ROOT / "roles" / "standby"

init_plugin_loader()


def load(path: str) -> Dict[str, Any]:
    """A YAML file of the role."""
    return dict(DataLoader().load_from_file(str(ROLE / path), trusted_as_template=True))


def value_of(expression: str, **known: Any) -> Any:
    """What an expression comes to; `known` is what a user set and what tasks have read."""
    variables = {
        **load("defaults/main.yml"),
        **load("vars/main.yml"),
        "role_path": str(ROLE),
        "inventory_hostname": "chris",
        "hostvars": {},
        "standby_barman_host": "barman",
        "standby_barman_server": "angus",
        **known,
    }
    templar = Templar(loader=DataLoader(), variables=variables)
    return templar.template(trust_as_template("{{ %s }}" % expression))  # noqa: UP031


def render(template: str, **known: Any) -> str:
    """What a template comes to."""
    return str(value_of(f"lookup('ansible.builtin.template', '{ROOT}/templates/{template}')", **known))


def slurped(text: str, **more: Any) -> Dict[str, Any]:
    """A file as the module slurp gives it."""
    return {"content": base64.b64encode(text.encode()).decode(), **more}


def cluster(version: str = "15", data: str = "/var/lib/postgresql/15/main", **files: str) -> Dict[str, Any]:
    """A Debian cluster that does not run, as tasks/cluster.yml finds it. A dot in a file name is an underscore here."""
    contents = {name.replace("_", "."): text for name, text in files.items()}
    return {
        "__standby_lsclusters": {"stdout_lines": [f"{version} main 5432 down postgres {data} /var/log/x.log"]},
        "__standby_pgdg": {"stdout_lines": []},
        "__standby_locks": {"results": []},
        "__standby_versions": {"results": [slurped(f"{version}\n", item=data)]},
        "__standby_pgdata": {"files": [{"path": f"{data}/{name}", "mtime": 100.5} for name in contents]},
        "__standby_read": {"results": [slurped(text, item=name) for name, text in contents.items()]},
        "__standby_exe": {"stdout": ""},
        "__standby_paths": {"stdout_lines": [data, f"{data}/pg_wal"]},
    }
