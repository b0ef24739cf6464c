"""Test WALBASIN_DEBUG: requests, connections, decisions and tracebacks."""

from pathlib import Path

from tests.support.barman_host import install
from tests.support.processes import give_folder, wait_until
from tests.support.standby import Standby

from .conftest import Primary


def test_debug_file(served: Standby, angus: Primary, workdir: Path) -> None:
    file = give_folder(workdir / "debug") / "log"
    first, second = angus.segments[2:4]
    env = {"WALBASIN_DEBUG": str(file)}
    assert served.fetch(first, "-p", "2", host="gate", env=env).status == 0
    served.wait_for_spooled(second)
    assert served.fetch(second, "-p", "2", host="gate", env=env).status == 0, "a hit, which the shell delivers"
    wait_until(lambda: f"{second}: taken" in file.read_text(), "the prefetch process's own words")
    text = file.read_text()
    for words in (
        f"called with ['--ssh-config', '{served.barman.client}/ssh_config'",
        "the prefetch process starts",
        f"{first}: asked for by PostgreSQL",
        "to gate starts: barman-wal-gate 1 angus",
        f"{second}: requested from Barman",
        f"{first}: delivered",
        "ends with status 0",
    ):
        assert words in text
    assert file.stat().st_mode & 0o777 == 0o600


def test_mistake_of_ours(served: Standby, angus: Primary, workdir: Path) -> None:
    file = give_folder(workdir / "debug") / "log"
    served.fetcher = install(workdir / "lib")
    with (workdir / "lib" / "walbasin" / "fetcher" / "retrieval.py").open("a") as module:
        module.write("\n\ndef run(*_):\n    return {}['x']\n")
    call = served.fetch(angus.segments[2], env={"WALBASIN_DEBUG": str(file)})
    assert (call.status, call.lines) == (2, ["barman-wal-restore: internal error, please report it: KeyError: 'x'"])
    text = file.read_text()
    assert "Traceback" in text
    assert "retrieval.py" in text
