"""Test roles/standby/files/install.py, which puts the programs on a host."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest

from tests.support.role_templar import ROLE, ROOT, value_of

FILES = {"interpreter": "/usr/bin/python3", "walbasin/a.py": "A = 1\n", "program": "#!/bin/sh\n"}
SCRIPT = (ROLE / "files/install.py").read_text(encoding="utf-8")


def install(folder: Path, files: Dict[str, str] = FILES, check: bool = False, runs: int = 1) -> List[str]:
    """Run the script so many times at once, and return the names that it prints.

    "->" stands for the link.
    """
    bin_folder = folder / "bin" if (folder / "bin").exists() else folder
    command = [sys.executable, "-IS", "-c", SCRIPT, str(folder / "lib"), str(bin_folder), str(check)]
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


def test_modes(tmp_path: Path) -> None:
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


def test_second_run(tmp_path: Path) -> None:
    install(tmp_path)
    assert install(tmp_path) == []


def test_one_changed_file(tmp_path: Path) -> None:
    install(tmp_path)
    assert install(tmp_path, {**FILES, "walbasin/a.py": "A = 2\n"}) == ["walbasin/a.py"]


def test_check_mode_first_run(tmp_path: Path) -> None:
    assert install(tmp_path, check=True) == [*FILES, "->"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", ["mode", "link"])
def test_program_open_to_others(tmp_path: Path, spoil: str) -> None:
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


def test_former_program_kept(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("Barman's own", encoding="utf-8")
    assert install(tmp_path) == [*FILES, "->"]
    assert (tmp_path / "program").resolve() == tmp_path / "lib/program"
    assert (tmp_path / "program.before-walbasin").read_text(encoding="utf-8") == "Barman's own"
    assert install(tmp_path) == []


def test_folder_open_to_others(tmp_path: Path) -> None:
    install(tmp_path)
    (byte_code,) = (tmp_path / "lib/walbasin/__pycache__").iterdir()
    genuine = byte_code.read_bytes()
    byte_code.write_bytes(genuine[:16] + b"planted")
    byte_code.parent.chmod(0o777)
    assert install(tmp_path) == ["walbasin/__pycache__"]
    assert byte_code.parent.stat().st_mode & 0o022 == 0
    assert byte_code.read_bytes() == genuine


@pytest.mark.parametrize("there", ["file", "link"])
def test_former_program_replaced(tmp_path: Path, there: str) -> None:
    if there == "file":
        (tmp_path / "program").write_text("stock", encoding="utf-8")
    else:
        (tmp_path / "program").symlink_to("/bin/false")
    assert install(tmp_path) == [*FILES, "->"]
    assert (tmp_path / "program").resolve() == tmp_path / "lib/program"


def test_concurrent_runs(tmp_path: Path) -> None:
    files = {**FILES, **{f"walbasin/module{number}.py": f"A = {number}\n" for number in range(50)}}
    assert sorted(install(tmp_path, files, runs=6)) == sorted([*files, "->"])
    assert not list(tmp_path.rglob("*.new"))


# The layout before the package had folders, and after it. gate is a module in the first
# and a folder in the second.
FLAT = {
    **{f"walbasin/{name}.py": "" for name in ("__init__", "__main__", "policy", "codec", "gate", "segment")},
    "program": "#!/bin/sh\n",
}
FOLDERS = {
    **{f"walbasin/{name}.py": "" for name in ("__init__", "__main__", "policy")},
    **{f"walbasin/{name}.py": "NEW = 1\n" for name in ("wal/__init__", "wal/segment", "gate/__init__", "gate/main")},
    "program": "#!/bin/sh\n",
}
STALE = [f"walbasin/{name}.py" for name in ("codec", "gate", "segment")]


def tree(folder: Path) -> List[str]:
    """Return all files below a folder, byte code as its module's name in brackets."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return sorted(re.sub(r"(.*)__pycache__/(\w+)\.[^/]*", r"[\1\2.py]", name) for name in names)


def byte_code(*names: str) -> List[str]:
    return [f"[{name}]" for name in names if name.endswith(".py")]


@pytest.mark.parametrize(
    ("before", "after", "stale"),
    [(FLAT, FOLDERS, STALE), (FOLDERS, FLAT, ["walbasin/gate", "walbasin/wal"])],
    ids=["upgrade", "downgrade"],
)
def test_stale_modules(tmp_path: Path, before: Dict[str, str], after: Dict[str, str], stale: List[str]) -> None:
    install(tmp_path, before)
    told = install(tmp_path, after)
    assert tree(tmp_path / "lib") == sorted([*after, *byte_code(*after)])
    assert set(stale) <= set(told)
    folders = {path.name for path in (tmp_path / "lib").rglob("*") if path.is_dir()} - {"__pycache__"}
    assert folders == {"walbasin", *(["wal", "gate"] if after is FOLDERS else [])}
    assert install(tmp_path, after) == []


def test_stale_modules_in_check_mode(tmp_path: Path) -> None:
    install(tmp_path, FLAT)
    told = install(tmp_path, FOLDERS, check=True)
    assert set(STALE) <= set(told)
    assert tree(tmp_path / "lib") == sorted([*FLAT, *byte_code(*FLAT)])


def test_stale_leftovers(tmp_path: Path) -> None:
    """Remove nothing but what a killed run or a removed module has left."""
    install(tmp_path)
    package = tmp_path / "lib/walbasin"
    (package / "a.py.new").write_text("A =", encoding="utf-8")
    (package / "__pycache__/gone.cpython-38.pyc").write_text("", encoding="utf-8")
    (package / "empty/folder").mkdir(parents=True)
    of_another_python = package / "__pycache__/a.cpython-38.pyc"
    of_another_python.write_text("", encoding="utf-8")
    told = install(tmp_path)
    assert sorted(told) == ["walbasin/__pycache__/gone.cpython-38.pyc", "walbasin/a.py.new", "walbasin/empty"]
    assert of_another_python.exists()
    assert install(tmp_path) == []


def test_stale_links(tmp_path: Path) -> None:
    """Remove a link in the folder, and keep its target."""
    install(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.py").write_text("", encoding="utf-8")
    (tmp_path / "lib/walbasin/folder").symlink_to(elsewhere)
    (tmp_path / "lib/walbasin/file.py").symlink_to(elsewhere / "kept.py")
    (tmp_path / "lib/link.py").symlink_to(elsewhere / "kept.py")
    assert sorted(install(tmp_path)) == ["link.py", "walbasin/file.py", "walbasin/folder"]
    assert (elsewhere / "kept.py").exists()


def test_foreign_modules(tmp_path: Path) -> None:
    """Remove what lies beside the package: Python looks there first, and runs it."""
    install(tmp_path)
    lib = tmp_path / "lib"
    for name in ("argparse.py", "__pycache__/argparse.cpython-311.pyc", "json/__init__.py", "barman-wal-gate"):
        (lib / name).parent.mkdir(exist_ok=True)
        (lib / name).write_text("", encoding="utf-8")
    assert install(tmp_path, check=True) == install(tmp_path)
    assert tree(lib) == sorted([*FILES, "barman-wal-gate", "[walbasin/a.py]"])  # the gate: of the other program
    assert install(tmp_path) == []


@pytest.mark.parametrize("name", ["", "bin"])
def test_folder_above_open_to_others(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """Refuse before the first change where others could replace what is installed."""
    folder = tmp_path / "x"
    (folder / "bin").mkdir(parents=True)
    (folder / name).chmod(0o777)
    with pytest.raises(AssertionError):
        install(folder)
    assert "must be root's, and others must not write to it" in capfd.readouterr().err
    assert sorted(path.name for path in folder.rglob("*")) == ["bin"]
    (folder / name).chmod(0o1777)  # as /tmp: what is root's stays root's
    install(folder)


def test_lock_of_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    lock = os.open(tmp_path / "lib", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    script = SCRIPT.replace("LONGEST_WAIT = 60", "LONGEST_WAIT = 1")
    command = [sys.executable, "-IS", "-c", script, str(tmp_path / "lib"), str(tmp_path), "False"]
    ran = subprocess.run(command, input="{}", text=True, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(lock)
    assert (ran.returncode, "another process holds the lock" in ran.stderr) == (1, True)


def test_linked_package(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept.py").write_text("", encoding="utf-8")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/walbasin").symlink_to(tmp_path / "elsewhere")
    install(tmp_path)
    assert (tmp_path / "elsewhere/kept.py").exists()


def test_failed_upgrade(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Keep the former program working until the new one is complete."""
    install(tmp_path, FLAT)
    (tmp_path / "lib/walbasin/wal").write_text("a file where a folder has to be", encoding="utf-8")
    with pytest.raises(AssertionError):
        install(tmp_path, FOLDERS)
    assert re.fullmatch(r"\S+/lib is not complete: .*walbasin/wal'\. Correct .*\n", capfd.readouterr().err)
    assert set(FLAT) <= set(tree(tmp_path / "lib"))


def test_modules_of_the_role() -> None:
    """Have the role install every module, whatever folder it lies in."""
    assert value_of("__standby_modules") == sorted(
        str(path.relative_to(ROOT / "files")) for path in (ROOT / "files/walbasin").rglob("*.py")
    )
