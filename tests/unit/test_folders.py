"""Prove that no folder of files/walbasin imports one above it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "files" / "walbasin"
# What each folder may import beside itself. The gate is the security boundary, and can
# be reviewed alone: it imports nothing of the standby's.
BELOW = {
    "wal": set[str](),
    "gate": {"wal"},
    "local": {"wal"},
    "remote": {"wal", "local"},
    "prefetch": {"wal", "local", "remote"},
    "fetcher": {"wal", "local", "remote", "prefetch"},
}
# Modules beside the folders, which every folder may import.
SHARED = {"VERSION", "policy"}


def imported(file: Path) -> set[str]:
    """Return the folders and modules of walbasin that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "walbasin":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("walbasin."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("walbasin")], "from walbasin import"
    return found


def test_folders_known() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} == set(BELOW)


@pytest.mark.parametrize("folder", BELOW)
def test_imports_downwards(folder: str) -> None:
    allowed = {folder, *BELOW[folder], *SHARED} - ({"policy"} if folder in ("wal", "gate") else set())
    found = {file.name: imported(file) - allowed for file in (PACKAGE / folder).glob("*.py")}
    assert {name: parts for name, parts in found.items() if parts} == {}


def test_imports_of_policy() -> None:
    """Let policy import nothing but wal: the folders above wal import policy."""
    assert imported(PACKAGE / "policy.py") <= {"wal"}


@pytest.mark.parametrize("folder", BELOW)
def test_package_docstring_alone(folder: str) -> None:
    (docstring,) = ast.parse((PACKAGE / folder / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr), "every call pays for more"
