"""Compare what the gate reads of Barman's configuration with what Barman reads."""

import configparser
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from barman.config import Config
from walbasin.gate import barman_archive, barman_config
from walbasin.gate.barman_archive import Folders
from walbasin.gate.barman_config import UnknownFolders

from tests.support.barman_host import BarmanHost
from tests.support.standby import Standby

from .conftest import Primary

MAIN = "[barman]\nbarman_user = me\nbarman_home = HOME\nconfiguration_files_directory = HOME/d\n"
ANGUS = "[angus]\ndescription = x\nconninfo = host=angus\n"
WALS = "wals_directory = HOME/{}\n"
HERE, THERE = WALS.format("here"), WALS.format("there")

# Files that Barman understands: name -> content. HOME stands for barman_home.
UNDERSTOOD: dict[str, dict[str, str]] = {
    "in conf.d": {"d/a.conf": ANGUS + HERE},
    "in the main file": {"main": MAIN + ANGUS + HERE},
    "before [barman]": {"main": ANGUS + HERE + MAIN},
    "among others": {"d/a.conf": f"[a]\n{THERE}{ANGUS}{HERE}[b]\n{THERE}"},
    "the last file wins": {"d/b.conf": ANGUS + HERE, "d/a.conf": ANGUS + THERE},
    "conf.d wins": {"main": MAIN + ANGUS + THERE, "d/a.conf": ANGUS + HERE},
    "twice in a file": {"d/a.conf": ANGUS + HERE + "[b]\nx = 1\n[angus]\n" + THERE},
    "an option twice": {"d/a.conf": ANGUS + HERE + THERE},
    "a section that spans files": {
        "main": MAIN + "[angus]\nstreaming_wals_directory = HOME/s\n",
        "d/a.conf": ANGUS + HERE,
        "d/b.conf": "[angus]\nincoming_wals_directory = HOME/i\n",
    },
    "config-update wins": {"d/a.conf": ANGUS + THERE, ".barman.auto.conf": "[b]\nx = 1\n[angus]\n" + HERE},
    "not *.conf": {"d/a.conf": ANGUS, "d/b.conf.bak": "[angus]\n" + HERE, "d/.c.conf": "[angus]\n" + HERE},
    "broken, and not *.conf": {"d/a.conf": ANGUS, "d/b.conf~": "nonsense\n"},
    "a folder *.conf": {"d/a.conf": ANGUS, "d/b.conf/c.conf": "[angus]\n" + HERE},
    "an empty file": {"d/a.conf": ANGUS + HERE, "d/b.conf": "", "d/c.conf": "\n\n# nothing\n"},
    "no new line at the end": {"d/a.conf": f"{ANGUS}{HERE}".rstrip("\n")},
    "comments": {"d/a.conf": f"; x\n# [angus]\n{ANGUS}# {THERE}; {THERE}  # {THERE}{HERE}"},
    "a comment behind a value": {"d/a.conf": ANGUS + HERE.replace("\n", " ; see there\n")},
    "a comment behind a header": {"d/a.conf": ANGUS.replace("]", "] # ours") + HERE},
    "continuation lines": {"d/a.conf": f"[b]\nx = 1\n  [angus]\n  y\n{ANGUS}y = 1\n    {THERE}{HERE}"},
    "a continuation behind a comment": {"d/a.conf": f"[b]\nx = 1\n# c\n\n [angus]\n {HERE}{ANGUS}"},
    "an indented section": {"d/a.conf": f"[b]\n  x = 1\n  [angus]\n  description = x\n  {HERE}"},
    "an indented header": {"d/a.conf": f"  {ANGUS}{HERE}"},
    "indented options": {"d/a.conf": (ANGUS + HERE).replace("\n", "\n  ")},
    "tabs": {"d/a.conf": "[angus]\n\tdescription = x\n\twals_directory\t=\tHOME/here\t\n"},
    "colons": {"d/a.conf": ANGUS + HERE.replace(" = ", ": ")},
    "names of options in capitals": {"d/a.conf": ANGUS + HERE.upper()},
    "[ANGUS] is another": {"d/a.conf": ANGUS + "[ANGUS]\n" + HERE + "[Angus]\n" + THERE},
    "[ angus ] is another": {"d/a.conf": ANGUS + "[ angus ]\n" + HERE},
    "double quotes": {"d/a.conf": ANGUS + 'wals_directory = "HOME/here"\n'},
    "quotes, single": {"d/a.conf": ANGUS + "wals_directory = 'HOME/here'\n"},
    "quotes that do not match": {"d/a.conf": ANGUS + "wals_directory = 'HOME/here\"\n"},
    "quotes in barman_home": {"main": MAIN.replace("= HOME\n", "= 'HOME'\n"), "d/a.conf": ANGUS},
    "no value": {"d/a.conf": ANGUS + "primary_ssh_command =\n"},
    "interpolation": {"d/a.conf": ANGUS + "x = HOME/here\nwals_directory = %(x)s/w\n"},
    "an unused option changes": {"d/a.conf": ANGUS + HERE + "x = 1\n", "d/b.conf": "[angus]\nx = 2\n"},
    "[DEFAULT] in the same file": {"d/a.conf": f"[DEFAULT]\n{HERE}{ANGUS}"},
    "[DEFAULT] at the end": {"d/a.conf": f"{ANGUS}[DEFAULT]\n{HERE}"},
    "[DEFAULT] and the section": {"d/a.conf": f"[DEFAULT]\n{THERE}{ANGUS}{HERE}"},
    "[default] is a server": {"d/a.conf": f"[default]\n{HERE}{ANGUS}"},
    "CRLF": {"d/a.conf": (ANGUS + HERE).replace("\n", "\r\n")},
    "CR": {"d/a.conf": (ANGUS + HERE).replace("\n", "\r")},
    "UTF-8": {"d/a.conf": "[b]\ndescription = Zürich, 東京\n" + ANGUS + HERE.replace("here", "hüben")},
    "other kinds of white space": {"d/a.conf": f"[b]\nx = 1\n\u00a0[angus]\n\x0c\n{ANGUS}\u2003y\n{HERE}"},
    "an active model": {
        "d/a.conf": ANGUS + HERE + "[m]\nmodel = on\ncluster = angus\nprimary_ssh_command = ssh b\n",
        "angus/.active-model.auto": "m\n",
    },
    "an inactive model": {"d/a.conf": ANGUS + "[m]\nmodel = on\ncluster = angus\nprimary_ssh_command = ssh b\n"},
    "not a model": {"d/a.conf": ANGUS + "model = off\n"},
    "a passive node": {"d/a.conf": ANGUS + "primary_ssh_command = ssh b\n"},
    "no primary": {"d/a.conf": ANGUS + "primary_ssh_command = None\n"},
    "passive no more": {
        "d/a.conf": ANGUS + "primary_ssh_command = ssh b\n",
        "d/b.conf": "[angus]\nprimary_ssh_command =\n",
    },
    "passive by [barman]": {"main": MAIN + "primary_ssh_command = ssh b\n", "d/a.conf": ANGUS},
    "not passive, whatever [barman] says": {
        "main": MAIN + "primary_ssh_command = ssh b\n",
        "d/a.conf": ANGUS + "primary_ssh_command = ''\n",
    },
    "passive by a model, whatever the server says": {
        "d/a.conf": ANGUS + "primary_ssh_command = None\n[m]\nmodel = 1\ncluster = angus\nprimary_ssh_command = a\n",
        "angus/.active-model.auto": "m",
    },
    "no folder of files": {"main": MAIN.replace("HOME/d", "HOME/nowhere") + ANGUS + HERE},
    "a folder with a pattern's signs": {
        "main": MAIN.replace("HOME/d", "HOME/[d]x"),
        "[d]x/a.conf": ANGUS + THERE,
        "dx/a.conf": ANGUS + HERE,
    },
}

# Files with which Barman does not start, or does not know the server.
REFUSED: dict[str, dict[str, str]] = {
    "no header": {"d/a.conf": ANGUS, "d/b.conf": HERE},
    "no header at the top": {"d/a.conf": HERE + ANGUS},
    "a byte order mark": {"d/a.conf": "\ufeff" + ANGUS},
    "a byte order mark elsewhere": {"d/a.conf": ANGUS, "d/b.conf": "\ufeff[b]\nx = 1\n"},
    "a line that is no option": {"d/a.conf": ANGUS, "d/b.conf": "[b]\nnonsense\n"},
    "a continuation of nothing": {"d/a.conf": ANGUS, "d/b.conf": "[b]\n  nonsense\n"},
    "half a header": {"d/a.conf": ANGUS + HERE, "d/b.conf": "[b\nx = 1\n"},
    "no name of an option": {"d/a.conf": ANGUS, "d/b.conf": "[b]\n= 1\n"},
    "an empty name": {"d/a.conf": ANGUS, "d/b.conf": "[]\nx = 1\n"},
    "a broken main file": {"main": MAIN + "nonsense\n", "d/a.conf": ANGUS},
    "an empty main file": {"main": "", "d/a.conf": ANGUS},
    "no section [barman]": {"main": ANGUS},
    "not UTF-8": {"d/a.conf": ANGUS, "d/b.conf": "[b]\ndescription = Z\udcfcrich\n"},
    "[barman] in conf.d": {"d/a.conf": ANGUS, "d/b.conf": "[barman]\nbarman_home = HOME/other\n"},
    "[barman] in config-update": {"d/a.conf": ANGUS, ".barman.auto.conf": "[barman]\nx = 1\n"},
    "a model": {"d/a.conf": ANGUS + "model = true\ncluster = x\n"},
    "another server": {"d/a.conf": "[ANGUS]\n" + HERE},
    "in no included file": {"d/a.conf.off": ANGUS},
    "interpolation of nothing": {"d/a.conf": ANGUS + "wals_directory = %(nowhere)s/w\n"},
    "a percent sign": {"d/a.conf": ANGUS + "wals_directory = HOME/100%\n"},
}

# Files that the versions of Barman read differently: Barman itself is asked then.
DISPUTED: dict[str, dict[str, str]] = {
    "[DEFAULT] in the main file": {"main": f"[DEFAULT]\n{HERE}{MAIN}", "d/a.conf": ANGUS},
    "interpolation across files": {
        "d/a.conf": ANGUS + "x = HOME/here\nwals_directory = %(x)s\n",
        "d/b.conf": "[angus]\nx = HOME/there\n",
    },
    "percent signs": {"d/a.conf": ANGUS + "wals_directory = HOME/100%%%%\n"},
}

# Files with which only an older Barman starts.
OUTDATED: dict[str, dict[str, str]] = {
    "interpolation of barman_home": {"d/a.conf": ANGUS + "wals_directory = %(barman_home)s/here\n"},
    "a percent sign, doubled": {"d/a.conf": ANGUS + "x = 100%%\n" + HERE},
}


def cases(table: dict[str, dict[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("files", list(table.values()), ids=list(table))


def write(home: Path, files: dict[str, str]) -> str:
    """Write the files, and return the path of the main one."""
    for name, text in ({"main": MAIN} | files).items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.replace("HOME", str(home)).encode("utf-8", "surrogateescape"))
    return str(home / "main")


def by_barman(path: str) -> "tuple[Folders, bool]":
    """Return what Barman reads: a server's folders, and whether it is passive.

    Raises whatever Barman ends with.
    """
    config = Config(path)
    config.load_configuration_files_directory()
    updated = f"{config.barman_home}/.barman.auto.conf"
    if os.path.exists(updated):
        config.load_config_file(updated)
    server = config.get_server("angus")
    folders = Folders(server.wals_directory, server.incoming_wals_directory, server.streaming_wals_directory)
    return folders, server.primary_ssh_command is not None


def by_gate(path: str) -> "tuple[Folders, bool]":
    config = barman_config.read_config(path, "angus")
    is_passive = barman_archive.find_passive_node(config, "angus") is not None
    return barman_archive.find_folders(config, "angus"), is_passive


@cases(UNDERSTOOD)
def test_understood(tmp_path: Path, files: dict[str, str]) -> None:
    path = write(tmp_path, files)
    assert by_gate(path) == by_barman(path)


@cases(REFUSED)
def test_refused(tmp_path: Path, files: dict[str, str]) -> None:
    path = write(tmp_path, files)
    with pytest.raises((Exception, SystemExit)):
        by_barman(path)
    with pytest.raises(UnknownFolders) as refusal:
        by_gate(path)
    assert len(str(refusal.value)) > 20


@cases(DISPUTED)
def test_disputed(tmp_path: Path, files: dict[str, str]) -> None:
    path = write(tmp_path, files)
    by_barman(path)
    with pytest.raises(UnknownFolders, match="not every version of Barman"):
        by_gate(path)


@cases(OUTDATED)
def test_outdated(tmp_path: Path, files: dict[str, str]) -> None:
    path = write(tmp_path, files)
    with pytest.raises((configparser.InterpolationError, ValueError)):
        by_barman(path)
    assert by_gate(path)[0].wals == f"{tmp_path}/here"


def test_refused_by_barman_itself(chris: Standby, archive: Callable[..., str], barman: BarmanHost) -> None:
    """Hear an error of Barman, and no "not in the archive", of what it cannot read."""
    server = archive({})
    file = barman.folder / "barman.d" / "broken.conf"
    file.write_text("nonsense\n")
    try:
        call = chris.fetch("000000010000000000000001", "-p", "2", host="gate", server=server)
    finally:
        file.unlink()
    assert (call.status, "barman get-wal ended with status" in call.stderr) == (2, True), call.stderr


def test_disputed_by_barman_itself(
    chris: Standby, archive: Callable[..., str], barman: BarmanHost, angus: Primary, wal: Callable[[str], bytes]
) -> None:
    """Have Barman find the file where its version looks."""
    server, segment = archive({}), angus.segments[4]
    elsewhere = barman.home / server / "elsewhere"
    (elsewhere / segment[:16]).mkdir(parents=True)
    (elsewhere / segment[:16] / segment).write_bytes(wal(segment))
    first, last = (barman.folder / "barman.d" / f"{server}{suffix}.conf" for suffix in ("", "_last"))
    with first.open("a") as file:
        file.write(f"folder = {elsewhere}\nwals_directory = %(folder)s\n")
    last.write_text(f"[{server}]\nfolder = {elsewhere}/not\n")
    try:
        call = chris.fetch(segment, "-p", "2", host="gate", server=server)
        assert call.status == 0, call.stderr
        assert chris.delivered() == wal(segment)
    finally:
        last.unlink()
