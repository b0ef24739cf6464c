"""Read an Ansible inventory, and how Ansible itself would reach a host of it."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import NoneType
from typing import Any, NamedTuple

from .text import ConsoleError

# Seconds, for one call of Ansible.
LIMIT = 60
ENVIRONMENT = {
    # Fail on an inventory that cannot be read: by default Ansible takes it for one
    # without hosts.
    "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
    "ANSIBLE_NOCOLOR": "true",
    "ANSIBLE_LOAD_CALLBACK_PLUGINS": "false",
}
# Options of Ansible's ssh connection, with the variables that set each, the strongest
# first (ansible-doc -t connection ssh).
OPTIONS = {
    "host": ("ansible_ssh_host", "ansible_host"),
    "port": ("ansible_ssh_port", "ansible_port"),
    "remote_user": ("ansible_ssh_user", "ansible_user"),
    "private_key_file": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
    "ssh_executable": ("ansible_ssh_executable",),
    "ssh_args": ("ansible_ssh_args",),
    "ssh_common_args": ("ansible_ssh_common_args",),
    "ssh_extra_args": ("ansible_ssh_extra_args",),
}
# It stands before the settings of a host in Ansible's output, whatever form that has.
MARK = "walbasin:"
# With what a template begins.
TEMPLATES = ("{{", "{%", "{#")
# A host that is in no inventory.
NOBODY = "walbasin-nobody"
# Hosts that are named in one call: a word of a command has 128 KiB at most.
MOST_TOGETHER = 500


class Access(NamedTuple):
    """Hold how Ansible reaches a host by ssh; what is empty is left to ssh."""

    host: str
    port: str = ""
    remote_user: str = ""
    private_key_file: str = ""
    ssh_executable: str = "ssh"
    ssh_args: str = ""
    ssh_common_args: str = ""
    ssh_extra_args: str = ""


class Inventory:
    """Read an inventory with Ansible's own programs."""

    def __init__(self, files: Sequence[str]) -> None:
        """Read the files, or what ansible.cfg names when there are none.

        Raises ConsoleError.
        """
        self._sources = [word for file in files for word in ("--inventory", file)]
        # Without the inventory: what it says of a host would count as a default.
        unset = ["--inventory", f"{NOBODY},"]
        with ThreadPoolExecutor() as pool:
            defaults = pool.submit(_debug, [NOBODY], unset, f"{{{{ {_marked(_defaults())} }}}}")
            completed = _run("ansible-inventory", "--list", *self._sources)
        # The values of OPTIONS without any variable; empty when Ansible does not say.
        self._defaults = next(iter(_answers(defaults.result())), [])
        if completed.returncode != 0:
            raise ConsoleError(f"ansible-inventory does not know the hosts: {completed.stderr.strip()}")
        self._groups = json.loads(completed.stdout)
        self._access: dict[str, Access] = {}
        self._errors: dict[str, str] = {}

    def hosts(self, group: str) -> list[str]:
        """Return the hosts of a group and of the groups below it, in order."""
        found: list[str] = []
        waiting = [group]
        while waiting:
            members = self._groups.get(waiting.pop(0), {})
            found += members.get("hosts", [])
            waiting += members.get("children", [])
        return list(dict.fromkeys(found))

    def variables(self, host: str) -> dict[str, Any]:
        """Return the variables of a host that are no templates."""
        known = self._groups["_meta"]["hostvars"].get(host, {})
        return {name: value for name, value in known.items() if "{{" not in str(value)}

    def find_access(self, hosts: Sequence[str]) -> None:
        """Ask Ansible how it reaches these hosts.

        It knows ansible.cfg, its environment, and templates. Raises ConsoleError.
        """
        self._find_plain(hosts)
        self._find_together([host for host in hosts if host not in self._access])
        # One template that fails has kept Ansible from answering for the others.
        rest = [host for host in hosts if host not in self._access]
        if not rest:
            return
        completed = _debug(rest, self._sources, f"{{{{ {_marked(_settings())} }}}}")
        for name, *values in _answers(completed):
            self._access[name] = Access(*map(_text, values))
        for name in set(rest) - set(self._access):
            error = re.search(rf'^{re.escape(name)} \| .*?"msg": "(.*?)"$', completed.stdout, re.MULTILINE | re.DOTALL)
            self._errors[name] = error[1] if error else completed.stderr

    def _find_plain(self, hosts: Sequence[str]) -> None:
        """Find those hosts whose variables need nothing of Ansible."""
        for host in hosts if self._defaults else []:
            known = self._groups["_meta"]["hostvars"].get(host, {})
            found = [[known[name] for name in names if name in known] for names in OPTIONS.values()]
            if all(isinstance(value, (str, int, NoneType)) for values in found for value in values):
                self._add(host, found)

    def _find_together(self, hosts: Sequence[str]) -> None:
        """Have the task of one host answer for all: a task for each takes long."""
        for first in range(0, len(hosts) if self._defaults else 0, MOST_TOGETHER):
            part = hosts[first : first + MOST_TOGETHER]
            one = f"{{% set known = hostvars[host] %}}{{{{ {_marked(_variables())} }}}} "
            text = f"{{% for host in {json.dumps(part)} %}}{one}{{% endfor %}}"
            for name, *found in _answers(_debug(part[:1], self._sources, text)):
                self._add(name, found)

    def _add(self, host: str, found: Sequence[list[Any]]) -> None:
        """Note how a host is reached, unless there are still templates in it.

        found: of each of OPTIONS, the values that are set, the strongest first.
        """
        chosen = [values[0] if values else default for values, default in zip(found, self._defaults, strict=True)]
        access = Access(*(host if value == NOBODY else _text(value) for value in chosen))
        # Older Ansibles leave a template as it is when it lacks a variable.
        if not any(start in value for value in access for start in TEMPLATES):
            self._access[host] = access

    def access(self, host: str) -> Access:
        """Return how Ansible reaches a host. Raises ConsoleError."""
        if host not in {*self._access, *self._errors}:
            self.find_access([host])
        if host not in self._access:
            raise ConsoleError(f"{host}: Ansible does not know how to reach it: {self._errors[host]}")
        return self._access[host]


def _marked(values: list[str]) -> str:
    """Return a Jinja expression of a list of others, which _answers reads."""
    return f"'{MARK}' ~ ([{', '.join(values)}] | to_json | b64encode)"


def _answers(completed: "subprocess.CompletedProcess[str]") -> list[list[Any]]:
    """Return the lists that Ansible has printed."""
    found = re.findall(rf"{MARK}([A-Za-z0-9+/=]+)", completed.stdout)
    return [json.loads(base64.b64decode(encoded)) for encoded in found]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _settings() -> list[str]:
    """Return Jinja expressions: a host's name, and the values of OPTIONS."""
    values = ["inventory_hostname"]
    for default, variables in zip(_defaults(), OPTIONS.values(), strict=True):
        value = default
        for variable in reversed(variables):
            # Not `default`: what a template lacks is an error.
            value = f"({variable} if '{variable}' in hostvars[inventory_hostname] else {value})"
        values.append(value)
    return values


def _defaults() -> list[str]:
    """Return Jinja expressions: the values of OPTIONS without any variable."""
    return [
        f"lookup('ansible.builtin.config', '{option}', plugin_type='connection', plugin_name='ssh')"
        for option in OPTIONS
    ]


def _variables() -> list[str]:
    """Return Jinja expressions: a host's name, and what is set of OPTIONS for it.

    Each is a list of one value, or empty.
    """
    values = ["host"]
    for variables in OPTIONS.values():
        value = "[]"
        for variable in reversed(variables):
            value = f"([known['{variable}']] if '{variable}' in known else {value})"
        values.append(value)
    return values


def _debug(hosts: Sequence[str], sources: Sequence[str], text: str) -> "subprocess.CompletedProcess[str]":
    """Have Ansible print a template for these hosts. Raises ConsoleError."""
    arguments = json.dumps({"msg": text})
    return _run("ansible", ",".join(hosts), *sources, "-m", "ansible.builtin.debug", "-a", arguments)


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **ENVIRONMENT}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=LIMIT,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConsoleError(f"{command[0]} could not be asked for the hosts: {error}") from error
