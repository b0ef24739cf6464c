"""Rebuild a standby on this machine, with the role's own scripts."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from console import role_script

from .barman_host import BarmanHost
from .processes import ME, PYTHON, VENV, give, run
from .role_templar import ROLE

SCRIPTS = ROLE / "files"


class Rebuild:
    """Do by hand what the role does: look, copy, put in place.

    may_all: the key may do anything, as one that was made by hand. tablespaces:
    folders into which Barman may copy, too.
    """

    def __init__(
        self, barman: BarmanHost, folder: Path, server: str, may_all: bool = False, *, tablespaces: Sequence[Path] = ()
    ) -> None:
        self.barman = barman
        self.server = server
        self.data = folder / "main"
        self.container = folder / "main.rebuild"
        self.new = self.container / "new"
        self.key = folder / "temporary"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        folders = " ".join(map(str, (self.new, *tablespaces)))
        command = f',command="{PYTHON} -IS {SCRIPTS}/receive_restore.py {folders}"'
        public = self.key.with_name("temporary.pub").read_text()
        with barman.authorized_keys.open("a") as file:
            file.write(f'restrict,from="127.0.0.1",expiry-time="20991231"{"" if may_all else command} {public}')
        self.ssh = ["ssh", "-F", "/dev/null", "-i", str(self.key), "-p", str(barman.port)]
        self.ssh += ["-o", f"UserKnownHostsFile={barman.client}/known_hosts", "-oBatchMode=yes"]
        # Barman logs in for each of some forty commands.
        self.ssh += ["-oControlMaster=auto", "-oControlPersist=5", "-o", f"ControlPath={folder}/ssh", f"{ME}@127.0.0.1"]

    def examine(self, script: str, **asked: Any) -> Any:
        """Return what one of the scripts finds that look at a host."""
        words, stdin = role_script.call(script, asked)
        ran = subprocess.run(
            [PYTHON, *words],
            input=stdin,
            env={"PATH": f"{VENV}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(ran.stdout)

    def find_backup(self, **asked: Any) -> Any:
        config = str(self.barman.folder / "barman.conf")
        known = {"server": self.server, "config": config, "backup": "", "timeline": 0, "lsn": 0, "history": []}
        return self.examine("examine_backup", **{**known, **asked})

    def find_data(self, data: Path, **asked: Any) -> Any:
        known = {"data": str(data), "container": str(self.container), "settings": [], "copied": {}}
        return self.examine("examine_data", **{**known, "version": 0, "discards": False, **asked})

    def restore(self, *options: str) -> None:
        words = ["--remote-ssh-command", " ".join(self.ssh), "--get-wal", "--standby-mode", *options]
        self.barman.run_barman("restore", *words, self.server, "latest", str(self.new))
        give(self.container)

    def step(self, step: str, *words: str) -> str:
        return run([PYTHON, "-IS", SCRIPTS / "place_data.py", step, self.data, self.container, "15", *words], Path("/"))

    def ask(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command over the temporary key."""
        return subprocess.run([*self.ssh, command], capture_output=True, text=True, timeout=60, check=False)
