"""Test what is printed of what a host says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.answers import parse_count
from console.text import ConsoleError, NotUnderstood, printable
from tests.support.console_standby import FORBIDDEN, HOSTILE


@given(st.text())
def test_printable(text: str) -> None:
    shown_text = printable(text)
    assert FORBIDDEN.search(shown_text) is None
    assert "\n" not in shown_text
    assert printable(shown_text) == shown_text


def test_printable_errors() -> None:
    assert FORBIDDEN.search(str(ConsoleError(HOSTILE))) is None
    assert len(str(ConsoleError("x" * 10_000))) == 1000


@pytest.mark.parametrize("text", ["", "x", "-1", "1e5", "٣", "9" * 5000, "1\n2"])
def test_number_not_understood(text: str) -> None:
    with pytest.raises(NotUnderstood, match="instead of a number"):
        parse_count("chris", text)
