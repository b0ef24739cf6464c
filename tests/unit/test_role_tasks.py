"""Prove that labs name only tasks that the role has."""

import re

from tests.support.role_templar import ROLE, ROOT

FILES = sorted((ROLE / "tasks").glob("*.yml"))
NAMED = re.compile(rf"\b((?:{'|'.join(path.stem for path in FILES)}) \| \w.*?)\"?$", re.MULTILINE)


def task_names() -> re.Pattern[str]:
    """Return what matches the name of each task, with its variables' values."""
    names = [name for path in FILES for name in re.findall(r"- name: (.*)", path.read_text())]
    return re.compile("|".join(re.sub(r"\\{\\{.*?\\}\\}", ".+", re.escape(name)) for name in names))


def test_tasks_named_by_labs() -> None:
    texts = {path: re.sub(r"(?m)^\s*(- )?name: .*$", "", path.read_text()) for path in ROOT.glob("molecule/**/*.yml")}
    named = {(path.name, name) for path, text in texts.items() for name in NAMED.findall(text)}
    assert named
    assert [each for each in named if not task_names().fullmatch(each[1])] == []


def test_unknown_task() -> None:
    assert task_names().fullmatch("install_program | Install the package walbasin and barman-wal-gate")
    assert not task_names().fullmatch("install_program | Install the program and the package walbasin")
