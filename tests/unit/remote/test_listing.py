import shlex

import pytest
from walbasin.remote import listing
from walbasin.remote.listing import FindNames, ServerFolders, ServerQuery

WALS = "/var/lib/barman/angus/wals"


@pytest.mark.parametrize("server", ["it's", "a b", "$(reboot)", "a;b"])
def test_server_quoted(server: str) -> None:
    assert f"show-servers {shlex.quote(server)} " in ServerQuery(server).command_line()


@pytest.mark.parametrize("folder", ["/it's/here", "/a b", "/$(reboot)", "/a;b"])
def test_folder_quoted(folder: str) -> None:
    words = shlex.split(FindNames(ServerFolders(folder, "/in", folder)).command_line())
    assert words.count(folder) + words.count(f"{folder};") == 2


@pytest.mark.parametrize(
    ("output", "folders"),
    [
        (f"\twals_directory: {WALS}\n".encode(), ServerFolders(WALS)),
        (b"wals_directory: /with a blank/wals\n", ServerFolders("/with a blank/wals")),
        (
            b"\tincoming_wals_directory: /in\n\tprimary_ssh_command: ssh barman@a\n",
            ServerFolders("", "/in", primary_ssh_command="ssh barman@a"),
        ),
        (b"\tprimary_ssh_command: None\n", ServerFolders()),
        (b"", ServerFolders()),
        (b"\twals_directory: None\n", ServerFolders()),
        (b"\twals_directory: s3://bucket/wals\n", ServerFolders()),
        (b"Welcome to barman\n", ServerFolders()),
        (b"\twals_directory: /a\x1b[2J\n", ServerFolders()),
    ],
)
def test_parse_server(output: bytes, folders: ServerFolders) -> None:
    assert listing.parse_server(output) == folders
