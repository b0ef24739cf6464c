"""Prove that README.md and docs/ agree with the code and with each other."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import docs

ROOT = docs.ROOT
PAGES = [docs.README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(docs.DOCS.glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
FILES = ROOT / "files"
# A path that begins with one of these names a file of this repository.
FOLDERS = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
# What is made here and is not committed, or is a name for many.
NO_FILES = re.compile(r"dist/|.*[*{]|tests/unit/test_<")
# Words of ssh and PostgreSQL that a log only passes on.
PASSED_ON = {
    "Permission denied (publickey)",
    "Host key verification failed",
    "requested starting point … is not in this server's history",
}


def prose(page: Path) -> Iterator[str]:
    """Yield the lines of a page that are no code, no table and no comment."""
    is_code = False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith(("    ", "|", "<!--")):
            yield line


def source() -> str:
    """Return the text of the programs, without what f-strings put in."""
    files = [path for path in FILES.rglob("*") if path.is_file() and path.suffix in ("", ".py")]
    return re.sub(r"{[^{}]*}|\"\n\s*f?\"", "", "\n".join(path.read_text() for path in files))


def anchors(page: Path) -> set[str]:
    """Return what links can name in a page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_line_length(page: Path) -> None:
    assert [line for line in prose(page) if len(line) > docs.WIDTH] == []


def test_readme_length() -> None:
    assert len(docs.README.read_text().splitlines()) <= 150


@each_page
def test_links(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if "://" not in target and not (path.exists() and (not anchor or anchor in anchors(path))):
            broken.append(target)
    assert broken == []


@each_page
def test_paths(page: Path) -> None:
    words = re.findall(rf"(?<![\w/.~$-])(?:{FOLDERS})/[\w./*<{{-]*", page.read_text())
    named = {word.rstrip(".") for word in words if not NO_FILES.match(word)}
    assert {name for name in named if not (ROOT / name).exists()} == set()


@each_page
def test_make_targets(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|    )make ([a-z][\w-]*)", page.read_text()))
    assert named - targets == set()


@each_page
def test_console_tasks(page: Path) -> None:
    tasks = set(re.findall(r"^@task.*?^def (\w+)", (ROOT / "fabfile.py").read_text(), re.MULTILINE | re.DOTALL))
    assert tasks
    assert set(re.findall(r"`fab (\w+)", page.read_text())) - tasks == set()


@each_page
def test_playbooks(page: Path) -> None:
    playbooks = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    named = set(re.findall(r"(?:-i \S+ |`)walbasin\.barman\.(\w+)", page.read_text()))
    assert named - playbooks - {"standby"} == set()


def test_role_variables() -> None:
    text = docs.VARIABLES.read_text()
    assert docs.with_part(text, "variables", docs.variables()) == text, "run: make docs"


def help_of(program: str) -> str:
    """Return what a program says of itself, in one line."""
    said = subprocess.run([FILES / program, "-h"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.split())


@pytest.mark.parametrize("program", ["barman-wal-restore", "barman-wal-gate"])
def test_options(program: str) -> None:
    options = set(re.findall(r"--[a-z][a-z0-9-]+", help_of(program)))
    assert len(options) > 2
    text = (docs.DOCS / "barman-wal-restore.md").read_text()
    assert {option for option in options if not re.search(rf"`[^`]*{option}\b", text)} == set()


def test_exit_status() -> None:
    known = set(re.findall(r"\b\d+\b", help_of("barman-wal-restore").partition("Exit status:")[2]))
    text = (docs.DOCS / "barman-wal-restore.md").read_text().partition("## Exit status")[2]
    listed = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert known == {*listed, "200"}


def test_files_named_in_failure_modes() -> None:
    text = (docs.DOCS / "failure-modes.md").read_text()
    named = set(re.findall(r"`(?:[\w/]*/)?((?:test|verify)_\w+\.(?:py|yml))`", text))
    assert len(named) > 10
    there = {path.name for folder in ("tests", "molecule") for path in (ROOT / folder).rglob("*")}
    assert named - there == set()


def test_log_quotes_in_troubleshooting() -> None:
    table = (docs.DOCS / "troubleshooting.md").read_text().partition("## What barman-wal-restore says")[2]
    quotes = [
        quote for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for quote in re.findall("`(.*?)`", row)
    ]
    assert len(quotes) > 15
    text = source()
    parts = {
        part.strip()
        for quote in quotes
        if quote not in PASSED_ON
        for part in re.split(r"[…;:]|\b(?:barman|angus|pg_wal/RECOVERYXLOG)\b|\d+", quote)
    }
    assert {part for part in parts if part not in text} == set()


def test_exception_tree() -> None:
    """Find a class for each exception that the page names."""
    tree = (docs.DOCS / "architecture.md").read_text().partition("## Errors")[2].split("```")[1]
    named = set(re.findall(r"── (\w+)", tree))
    assert len(named) > 5
    assert named - set(re.findall(r"^class (\w+)", source(), re.MULTILINE)) == set()


def test_package_folders() -> None:
    table = (docs.DOCS / "architecture.md").read_text().partition("## Folders of the package")[2].partition("## ")[0]
    named = set(re.findall(r"^\| `(\w+)/`", table, re.MULTILINE))
    assert named == {path.name for path in (FILES / "walbasin").iterdir() if path.is_dir() and path.name[0] != "_"}


def test_version_of_the_collection() -> None:
    """Name the tarball that `ansible-galaxy collection build` makes."""
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    named = [
        (page.name, found) for page in PAGES for found in re.findall(r"walbasin-barman-(.*?)\.tar", page.read_text())
    ]
    assert named
    assert {found for _, found in named} == {version}, named
