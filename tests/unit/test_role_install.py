"""How the role puts the programs on a host, in one round trip."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest

from tests.standby_role import ROLE

FILES = {"interpreter": "/usr/bin/python3", "walbasin/a.py": "A = 1\n", "program": "#!/bin/sh\n"}


def install(folder: Path, files: Dict[str, str] = FILES, check: bool = False) -> List[str]:
    """The files that it says it wrote."""
    script = (ROLE / "files/install.py").read_text(encoding="utf-8")
    command = [sys.executable, "-IS", "-c", script, str(folder), str(check)]
    # A hardened root has a umask that would hide the files from PostgreSQL.
    ran = subprocess.run(command, input=json.dumps(files), stdout=subprocess.PIPE, text=True, check=True, umask=0o077)
    return ran.stdout.splitlines()


def test_everybody_can_read_and_nobody_else_can_write(tmp_path: Path) -> None:
    assert install(tmp_path) == list(FILES)
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in FILES} == FILES
    modes = {name: oct((tmp_path / name).stat().st_mode & 0o7777) for name in ("walbasin", *FILES)}
    assert modes == {"walbasin": "0o755", "interpreter": "0o644", "walbasin/a.py": "0o644", "program": "0o755"}
    (byte_code,) = (tmp_path / "walbasin/__pycache__").iterdir()
    assert byte_code.stat().st_mode & 0o444 == 0o444


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    assert install(tmp_path) == []


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    install(tmp_path)
    assert install(tmp_path, {**FILES, "walbasin/a.py": "A = 2\n"}) == ["walbasin/a.py"]


def test_check_mode_tells_and_writes_nothing(tmp_path: Path) -> None:
    assert install(tmp_path / "lib", check=True) == list(FILES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", ["mode", "link"])
def test_what_somebody_else_could_change_is_replaced(tmp_path: Path, spoil: str) -> None:
    install(tmp_path)
    program = tmp_path / "program"
    if spoil == "mode":
        program.chmod(0o777)
    else:
        program.rename(tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", program)
    assert install(tmp_path) == ["program"]
    assert not program.is_symlink()
    assert program.stat().st_mode & 0o022 == 0
