"""Run on a host what the role runs there to look at it, and change nothing."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from .hosts import Host
from .text import NotUnderstood

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "files"
SCRIPTS = ROOT / "roles" / "standby" / "files"
# Seconds for one of them: Barman asks the primary, too.
LIMIT = 180


class Call(NamedTuple):
    """Hold how a script is run: the words behind `python3`, and what it reads."""

    words: tuple[str, ...]
    stdin: str


def call(script: str, asked: dict[str, Any]) -> Call:
    """Return how one of the role's scripts is run, with the package beside it."""
    files = {str(path.relative_to(PACKAGE)): path.read_text() for path in (PACKAGE / "walbasin").rglob("*.py")}
    files[f"{script}.py"] = (SCRIPTS / f"{script}.py").read_text()
    loader = (SCRIPTS / "run_with_package.py").read_text()
    return Call(("-IS", "-c", loader, script, json.dumps(asked)), json.dumps(files))


def run(host: Host, user: str, script: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what one of the role's scripts answers.

    Raises ConsoleError.
    """
    words, stdin = call(script, asked)
    output = host.run("python3", *words, user=user, limit=LIMIT, stdin=stdin)
    try:
        found = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood(host.name, f"{script} answers {output[:200]}") from error
    if not isinstance(found, dict):
        raise NotUnderstood(host.name, f"{script} answers {output[:200]}")
    return found
