import re

from walbasin.options import _parser

from tests import readme


def test_every_role_variable_is_in_the_readme_as_the_role_has_it() -> None:
    text = readme.README.read_text()
    assert readme.with_table(text) == text, "run: make readme"


def test_every_option_of_the_fetcher_is_in_the_readme() -> None:
    text = readme.README.read_text()
    options = {word for action in _parser()._actions for word in action.option_strings if word.startswith("--")}
    missing = {option for option in options - {"--help", "--version"} if not re.search(rf"`[^`]*{option}\b", text)}
    assert not missing
