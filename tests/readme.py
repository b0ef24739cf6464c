"""The README's table of role variables, made from the role itself: `python -m tests.readme` writes it."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ROLE = ROOT / "roles" / "standby"
MARKS = ("<!-- variables -->\n", "<!-- end of variables -->\n")


def table() -> str:
    """Markdown, a row a variable, in the order of the argument specs."""
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, spec in specs["main"]["options"].items():
        rows.append(f"| `{name}` | {_default(spec, defaults.get(name))} | {_meaning(spec)} |")
    return "\n".join(rows) + "\n"


def _default(spec: dict[str, Any], value: Any) -> str:
    if spec.get("required"):
        return "**required**"
    if isinstance(value, str) and "{{" in value:
        return "see there"
    return "`" + str(value if value != "" else "''").replace("True", "true").replace("False", "false") + "`"


def _meaning(spec: dict[str, Any]) -> str:
    description = spec["description"]
    text = " ".join(description) if isinstance(description, list) else description
    choices = f" One of {', '.join(f'`{choice}`' for choice in spec['choices'])}." if "choices" in spec else ""
    return re.sub(r"\b[CO]\(([^)]*)\)", r"`\1`", text).replace("|", "\\|") + choices


def with_table(text: str) -> str:
    """The README with the table between its marks."""
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
