import re

from walbasin.fetcher.options import _parser

from tests import readme


def test_every_role_variable_is_in_the_readme_as_the_role_has_it() -> None:
    text = readme.README.read_text()
    assert readme.with_table(text) == text, "run: make readme"


def test_every_option_of_the_fetcher_is_in_the_readme() -> None:
    text = readme.README.read_text()
    options = {word for action in _parser()._actions for word in action.option_strings if word.startswith("--")}
    missing = {option for option in options - {"--help", "--version"} if not re.search(rf"`[^`]*{option}\b", text)}
    assert not missing


def test_every_test_that_the_readme_names_is_there() -> None:
    root = readme.README.parent
    named = set(re.findall(r"`([\w/]*(?:test|verify)_\w+\.(?:py|yml))`", readme.README.read_text()))
    assert len(named) > 10
    assert [
        name
        for name in named
        if not [*root.glob(f"tests/**/{name}"), *root.glob(f"molecule/**/{name}"), *root.glob(name)]
    ] == []
