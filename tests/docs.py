"""Write what is generated in README.md and docs/.

`python -m tests.docs` writes the role's variables.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
VARIABLES = DOCS / "role-variables.md"
ROLE = ROOT / "roles" / "standby"
# Columns of a line of prose.
WIDTH = 88


def with_part(text: str, name: str, part: str) -> str:
    """Return the text with `part` between the marks of that name.

    Raises ValueError when the text does not have each mark once.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{part}\n{end}{after}"


def write_part(page: Path, name: str, part: str) -> None:
    """Replace what lies between the marks of that name in a page."""
    page.write_text(with_part(page.read_text(), name, part))


def variables() -> str:
    """Return a Markdown list of the role's variables, in the order of its specs."""
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    return "".join(_item(name, spec, defaults.get(name)) for name, spec in specs["main"]["options"].items())


def _item(name: str, spec: dict[str, Any], default: Any) -> str:
    text = f"- `{name}` ({_default(spec, default)}): {_meaning(spec)}"
    lines = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _default(spec: dict[str, Any], value: Any) -> str:
    if spec.get("required"):
        return "**required**"
    if value in ("", []):
        return "default: empty"
    return f"default: `{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(spec: dict[str, Any]) -> str:
    description = spec["description"]
    text = " ".join(description) if isinstance(description, list) else description
    choices = f" One of {', '.join(f'`{choice}`' for choice in spec['choices'])}." if "choices" in spec else ""
    return re.sub(r"\b[CO]\(([^)]*)\)", r"`\1`", text) + choices


if __name__ == "__main__":
    write_part(VARIABLES, "variables", variables())
