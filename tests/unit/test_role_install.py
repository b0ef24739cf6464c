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
SCRIPT = (ROLE / "files/install.py").read_text(encoding="utf-8")


def install(folder: Path, files: Dict[str, str] = FILES, check: bool = False, runs: int = 1) -> List[str]:
    """What so many runs at once say they wrote: the files' names, the link as "->"."""
    command = [sys.executable, "-IS", "-c", SCRIPT, str(folder / "lib"), str(folder), str(check)]
    (folder / "stdin").write_text(json.dumps(files), encoding="utf-8")
    # A hardened root has a umask that would hide the files from PostgreSQL.
    started = []
    for _ in range(runs):
        with (folder / "stdin").open() as stdin:
            started.append(subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, umask=0o077))
    (folder / "stdin").unlink()
    written = "".join(run.communicate()[0] + "\n" for run in started).split()
    assert [run.returncode for run in started] == [0] * runs
    return [os.path.relpath(path, folder / "lib").replace("../program", "->") for path in written]


def test_everybody_can_read_and_nobody_else_can_write(tmp_path: Path) -> None:
    assert install(tmp_path) == [*FILES, "->"]
    lib = tmp_path / "lib"
    assert {name: (lib / name).read_text(encoding="utf-8") for name in FILES} == FILES
    modes = {name: oct((lib / name).stat().st_mode & 0o7777) for name in (".", "walbasin", *FILES)}
    assert modes == {
        ".": "0o755",
        "walbasin": "0o755",
        "interpreter": "0o644",
        "walbasin/a.py": "0o644",
        "program": "0o755",
    }
    (byte_code,) = (lib / "walbasin/__pycache__").iterdir()
    assert byte_code.stat().st_mode & 0o444 == 0o444
    assert (tmp_path / "program").resolve() == lib / "program"


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    assert install(tmp_path) == []


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    install(tmp_path)
    assert install(tmp_path, {**FILES, "walbasin/a.py": "A = 2\n"}) == ["walbasin/a.py"]


def test_check_mode_tells_and_writes_nothing(tmp_path: Path) -> None:
    assert install(tmp_path, check=True) == [*FILES, "->"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", ["mode", "link"])
def test_what_somebody_else_could_change_is_replaced(tmp_path: Path, spoil: str) -> None:
    install(tmp_path)
    program = tmp_path / "lib/program"
    if spoil == "mode":
        program.chmod(0o777)
    else:
        program.rename(tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", program)
    assert install(tmp_path) == ["program"]
    assert not program.is_symlink()
    assert program.stat().st_mode & 0o022 == 0


def test_what_was_there_before_is_kept_beside_it(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("Barman's own", encoding="utf-8")
    assert install(tmp_path) == [*FILES, "->"]
    assert (tmp_path / "program").resolve() == tmp_path / "lib/program"
    assert (tmp_path / "program.before-walbasin").read_text(encoding="utf-8") == "Barman's own"
    assert install(tmp_path) == []


def test_a_folder_that_others_could_write_to_is_closed_and_its_byte_code_made_anew(tmp_path: Path) -> None:
    install(tmp_path)
    (byte_code,) = (tmp_path / "lib/walbasin/__pycache__").iterdir()
    genuine = byte_code.read_bytes()
    byte_code.write_bytes(genuine[:16] + b"planted")
    byte_code.parent.chmod(0o777)
    assert install(tmp_path) == ["walbasin/__pycache__"]
    assert byte_code.parent.stat().st_mode & 0o022 == 0
    assert byte_code.read_bytes() == genuine


@pytest.mark.parametrize("there", ["file", "link"])
def test_another_program_of_that_name_in_the_path_is_replaced(tmp_path: Path, there: str) -> None:
    if there == "file":
        (tmp_path / "program").write_text("stock", encoding="utf-8")
    else:
        (tmp_path / "program").symlink_to("/bin/false")
    assert install(tmp_path) == [*FILES, "->"]
    assert (tmp_path / "program").resolve() == tmp_path / "lib/program"


def test_several_at_once_write_each_file_once(tmp_path: Path) -> None:
    files = {**FILES, **{f"walbasin/module{number}.py": f"A = {number}\n" for number in range(50)}}
    assert sorted(install(tmp_path, files, runs=6)) == sorted([*files, "->"])
    assert not list(tmp_path.rglob("*.new"))
