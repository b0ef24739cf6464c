import shlex
from types import SimpleNamespace

import pytest
from walbasin.remote import listing
from walbasin.remote.errors import RemoteError
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


@pytest.mark.parametrize(
    ("said", "is_error"),
    [
        ("status 3: barman-wal-gate: /wals: Input/output error", True),
        ("status 3: barman-wal-gate: refused: no list: there is no server angus in the configuration", False),
        ("status 127: sh: 1: barman-wal-gate: not found", False),
        ("status 1: barman-wal-gate: Command not found.", False),
    ],
)
def test_gate_that_does_not_list(said: str, is_error: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a gate that cannot list now for no stock host, of which less is known."""

    def fail(*_: object) -> None:
        raise RemoteError(f"barman get-wal on barman ended with {said}")

    monkeypatch.setattr(listing, "run", fail)
    monkeypatch.setattr(listing, "_held", lambda *_: frozenset({"held"}))
    archive = SimpleNamespace(request=SimpleNamespace(server="angus", config=""))
    if is_error:
        with pytest.raises(RemoteError):
            listing.list_archive(archive, [])  # type: ignore[arg-type]
    else:
        assert listing.list_archive(archive, []).names == {"held"}  # type: ignore[arg-type]
