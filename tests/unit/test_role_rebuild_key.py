"""Test what the temporary key of a rebuild may do."""

from pathlib import Path
from typing import List

import pytest

from tests.support.role_templar import load_script

receive = load_script("receive_restore")


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "test '-e' '/d/new'",
        "test '-d' '/d/new'",
        "test '-e' '/d/new/pg_tblspc/16384' '-o' '-L' '/d/new/pg_tblspc/16384'",
        "mkdir '-p' '/d/new' '-m' '700'",
        "mkdir '-p' '/d/new/pg_wal/archive_status'",
        "touch '/ts/.barman_write_check'",
        "rm '/ts/.barman_write_check'",
        "rm '-fr' '/d/new/pg_tblspc/16384'",
        "ln '-s' '/ts' '/d/new/pg_tblspc/16384'",
        "cat '/d/new/.barman-recover.info'",
        "ls '/d/new'",
        "mv '/d/new/backup_manifest' '/d/new/backup_manifest.20261129T001817'",
        "rsync --server -sKtprRe.iLsfxCIvu",
    ],
)
def test_commands_of_barman(command: str) -> None:
    """Let through what Barman 3.4 and 3.19 send."""
    assert receive.parse(command, receive.Folders("/d/new", ["/ts"]))


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh -c true",
        "'",
        "true x",
        "test -e /etc/passwd",
        "test -e /d/new/../../etc/passwd",
        "test -e /d/new -o -L /etc/passwd",
        "test -e /d/newer",
        "mkdir -p /d",
        "mkdir -p /d/new -m 777",
        "rm -fr /d/new",
        "rm -fr /d/new/base",
        "rm -fr /d/new/pg_tblspc/../base",
        "rm /d/new/PG_VERSION",
        "ln -s /etc /d/new/pg_tblspc/1",
        "ln -s /ts /d/new/base",
        "cat /etc/passwd",
        "mv /d/new/backup_manifest /d/new/pg_hba.conf",
        "mv /d/new/PG_VERSION /d/new/PG_VERSION.1",
        "rsync -a /etc /d/new",
        "sudo true",
    ],
)
def test_commands_of_others(command: str) -> None:
    with pytest.raises(receive.Refused):
        receive.parse(command, receive.Folders("/d/new", ["/ts"]))


@pytest.mark.parametrize(
    ("sent", "is_let_through"),
    [
        (["-LKtpre.iLs", "--delete-excluded", "--inplace", ".", "/d/new"], True),
        (["--files-from=-", "--from0", ".", "/ts/"], True),
        ([".", "/etc"], False),
        ([".", "/d/new", "/etc"], False),
        (["/d/new", "."], False),
        (["--files-from=/etc/passwd", ".", "/d/new"], False),
        (["--backup-dir=/etc", ".", "/d/new"], False),
        (["--link-dest=/etc", ".", "/d/new"], False),
        (["--remove-source-files", ".", "/d/new"], False),
        (["-lr", ".", "/d/new"], False),
        (["-e", "sh", ".", "/d/new"], False),
        (["--", ".", "/d/new"], False),
        ([], False),
    ],
)
def test_words_of_rsync(sent: List[str], is_let_through: bool) -> None:
    folders = receive.Folders("/d/new", ["/ts"])
    words = ["rsync", "--server", "-sKtpre.iLs"]
    if is_let_through:
        assert receive.complete_rsync(words, sent, folders)[:3] == ["rsync", "--server", "-Ktpre.iLs"]
    else:
        with pytest.raises(receive.Refused):
            receive.complete_rsync(words, sent, folders)


def test_link_out_of_folders(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "out").symlink_to("/etc")
    folders = receive.Folders(str(tmp_path / "new"), [])
    assert folders.holds(f"{tmp_path}/new/base")
    assert not folders.holds(f"{tmp_path}/new/out/passwd")
