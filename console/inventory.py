"""Read an Ansible inventory, and how Ansible itself would reach a host of it."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Sequence
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


class Access(NamedTuple):
    """How Ansible reaches a host by ssh; what is empty is left to ssh."""

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
        completed = _run("ansible-inventory", "--list", *self._sources)
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
        """Ask Ansible how it reaches these hosts, all at once.

        It knows ansible.cfg, its environment, and templates. Raises ConsoleError.
        """
        arguments = json.dumps({"msg": f"{{{{ '{MARK}' ~ ({_expression()} | to_json | b64encode) }}}}"})
        completed = _run("ansible", ",".join(hosts), *self._sources, "-m", "ansible.builtin.debug", "-a", arguments)
        for encoded in re.findall(rf"{MARK}([A-Za-z0-9+/=]+)", completed.stdout):
            name, *values = json.loads(base64.b64decode(encoded))
            self._access[name] = Access(*("" if value is None else str(value) for value in values))
        for name in set(hosts) - set(self._access):
            error = re.search(rf'^{re.escape(name)} \| .*?"msg": "(.*?)"$', completed.stdout, re.MULTILINE | re.DOTALL)
            self._errors[name] = error[1] if error else completed.stderr

    def access(self, host: str) -> Access:
        """Return how Ansible reaches a host. Raises ConsoleError."""
        if host not in {*self._access, *self._errors}:
            self.find_access([host])
        if host not in self._access:
            raise ConsoleError(f"{host}: Ansible does not know how to reach it: {self._errors[host]}")
        return self._access[host]


def _expression() -> str:
    """Return a Jinja expression: a host's name, and the values of OPTIONS."""
    values = ["inventory_hostname"]
    for option, variables in OPTIONS.items():
        value = f"lookup('ansible.builtin.config', '{option}', plugin_type='connection', plugin_name='ssh')"
        for variable in reversed(variables):
            # Not `default`: what a template lacks is an error.
            value = f"({variable} if '{variable}' in hostvars[inventory_hostname] else {value})"
        values.append(value)
    return f"[{', '.join(values)}]"


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
