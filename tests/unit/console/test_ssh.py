"""Test the errors of a login."""

import pytest

from console.ssh import login_error


@pytest.mark.parametrize(
    ("stderr", "error"),
    [
        ("", "chris: ssh ended without a word"),
        (
            "banner\nssh: connect to host x port 22: Connection refused\n",
            "chris: ssh: connect to host x port 22: Connection refused",
        ),
        (
            "No ED25519 host key is known for x and you have requested strict checking.\n"
            "Host key verification failed.\n",
            "chris: host key not known: No ED25519 host key is known for x and you have requested strict checking. "
            "Put it into known_hosts, or name a file that has it with --known-hosts",
        ),
        (
            "@@@\nHost key for x has changed and you have requested strict checking.\nHost key verification failed.\n",
            "chris: host key not known: Host key for x has changed and you have requested strict checking. "
            "Find out why, before you change known_hosts",
        ),
    ],
)
def test_login_errors(stderr: str, error: str) -> None:
    assert str(login_error("chris", stderr)) == error
