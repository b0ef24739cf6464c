"""Test roles/standby/files/check_login.py, which judges the settings of sshd."""

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.role_templar import ROLE, load_script

check_login = load_script("check_login")

LOGIN = check_login.Login(
    user="barman",
    uid="105",
    groups=["barman", "ssh-users"],
    home="/var/lib/barman",
    host="chris.lan",
    address="10.0.0.3",
    port="22",
)
# Some of what sshd -T prints where nobody has changed anything.
DEFAULT = """port 22
addressfamily any
listenaddress [::]:22
listenaddress 0.0.0.0:22
usepam yes
maxsessions 10
permitrootlogin without-password
pubkeyauthentication yes
strictmodes yes
usedns no
forcecommand none
chrootdirectory none
authorizedkeyscommand none
pubkeyacceptedalgorithms ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256
authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2
authenticationmethods any
"""


def settings(**changed: str) -> Any:
    lines = [line for line in DEFAULT.splitlines() if line.split()[0] not in changed]
    return check_login.parse("\n".join([*lines, *(f"{name} {value}" for name, value in changed.items() if value)]))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"authorizedkeysfile": "%h/.ssh/authorized_keys"},
        {"authorizedkeysfile": "/etc/ssh/keys/%u /var/lib/%u/.ssh/authorized_keys"},
        {"authorizedkeysfile": ""},  # not told
        {"authorizedkeyscommand": "/usr/bin/sss_ssh_authorizedkeys"},
        {"authenticationmethods": "publickey,keyboard-interactive publickey"},
        {"allowusers": "dba barman"},
        {"allowusers": "bar*"},
        {"allowusers": "barman@10.0.0.0/24"},
        {"allowusers": "barman@10.0.0.?"},
        {"allowusers": "barman@*.lan"},
        {"allowgroups": "wheel ssh-*"},
        {"denyusers": "root barman2 barman@192.0.2.0/24 arman"},
        {"denygroups": "wheel"},
        {"permitrootlogin": "no"},
        {"maxsessions": "1"},
    ],
)
def test_login_let_in(changed: Any) -> None:
    assert check_login.refusals_of(settings(**changed), LOGIN) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pubkeyauthentication": "no"}, "PubkeyAuthentication is no. Set it to yes for barman."),
        (
            {"authorizedkeysfile": "/etc/ssh/keys/%u"},
            "AuthorizedKeysFile is /etc/ssh/keys/%u, so /var/lib/barman/.ssh/",
        ),
        ({"authorizedkeysfile": ".ssh/authorized_keys2"}, "Add .ssh/authorized_keys to it for barman."),
        (
            {"authorizedkeysfile": "none", "authorizedkeyscommand": "/usr/bin/sss %u"},
            "AuthorizedKeysFile is none, and asks AuthorizedKeysCommand /usr/bin/sss %u",
        ),
        ({"authenticationmethods": "publickey,keyboard-interactive"}, "AuthenticationMethods is publickey,keyboard"),
        ({"authenticationmethods": "password"}, "AuthenticationMethods is password."),
        ({"allowusers": "dba root"}, "AllowUsers is dba root (barman comes from 10.0.0.3). Add to it."),
        ({"allowusers": "barman@192.0.2.0/24"}, "AllowUsers is barman@192.0.2.0/24"),
        ({"allowusers": "barman2 arman"}, "AllowUsers"),
        ({"denyusers": "root bar*"}, "DenyUsers has bar* (barman comes from 10.0.0.3). Take that out."),
        ({"denyusers": "*@10.0.0.3"}, "DenyUsers has *@10.0.0.3"),
        ({"allowgroups": "wheel"}, "AllowGroups is wheel (barman is in barman, ssh-users)"),
        ({"denygroups": "ssh-users"}, "DenyGroups has ssh-users"),
        ({"forcecommand": "internal-sftp"}, "ForceCommand is internal-sftp, so the gate cannot run."),
        ({"chrootdirectory": "/srv/%u"}, "ChrootDirectory is /srv/%u, so the gate cannot run."),
        ({"maxsessions": "0"}, "MaxSessions is 0."),
    ],
)
def test_login_kept_out(changed: Any, words: str) -> None:
    (refusal,) = check_login.refusals_of(settings(**changed), LOGIN)
    assert words in refusal


def test_root_kept_out() -> None:
    refused = check_login.refusals_of(settings(permitrootlogin="no"), LOGIN._replace(user="root"))
    assert refused == ["PermitRootLogin is no. Set it to prohibit-password."]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ({}, ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]),
        ({"pubkeyacceptedalgorithms": "rsa-sha2-512"}, ["ssh-rsa"]),
        ({"pubkeyacceptedalgorithms": "ecdsa-sha2-*,rsa-sha2-256"}, ["ecdsa-sha2-nistp256", "ssh-rsa"]),
        ({"pubkeyacceptedalgorithms": "", "pubkeyacceptedkeytypes": "ssh-rsa"}, ["ssh-rsa"]),
        ({"pubkeyacceptedalgorithms": "ssh-ed25519-cert-v01@openssh.com"}, []),
        ({"pubkeyacceptedalgorithms": ""}, ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]),  # not told
    ],
)
def test_types_of_keys(names: Any, taken: Any) -> None:
    known = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]
    assert [each for each in known if check_login.takes(settings(**names), each)] == taken


def test_no_type_of_key() -> None:
    only_rsa = settings(pubkeyacceptedalgorithms="rsa-sha2-512")
    assert check_login.type_refusals_of(only_rsa, "", ["ssh-ed25519", "ssh-rsa"]) == []
    assert check_login.type_refusals_of(only_rsa, "ssh-rsa", ["ssh-ed25519"]) == []
    (new,) = check_login.type_refusals_of(only_rsa, "", ["ssh-ed25519"])
    assert new.endswith("nothing for a key of type ssh-ed25519. Add one of these.")
    (present,) = check_login.type_refusals_of(only_rsa, "ssh-ed25519", ["ssh-rsa"])
    assert "Remove the key" in present


@pytest.mark.parametrize(
    ("changed", "port", "are_its"),
    [
        ({}, "22", True),
        ({}, "2222", False),
        ({"port": "2222", "listenaddress": "0.0.0.0:2222"}, "2222", True),
        ({"listenaddress": "10.0.0.2:2222"}, "2222", True),
    ],
)
def test_settings_of_another_sshd(changed: Any, port: str, are_its: bool) -> None:
    assert check_login.listens(settings(**changed), port) is are_its


@pytest.mark.parametrize(("strict", "mode", "refused"), [("yes", 0o777, 1), ("yes", 0o755, 0), ("no", 0o777, 0)])
def test_folders_open_to_others(tmp_path: Path, strict: str, mode: int, refused: int) -> None:
    me = list(pwd.getpwuid(os.getuid()))
    me[5] = str(tmp_path)
    tmp_path.chmod(mode)
    found = check_login.account_refusals_of(settings(strictmodes=strict), pwd.struct_passwd(me))
    assert len(found) == refused
    assert all(f"chmod go-w {tmp_path}" in each for each in found)


@pytest.mark.parametrize(
    ("mode", "is_debian", "named", "primary_of", "is_open"),
    [
        (0o700, False, [], ["barman"], False),
        (0o755, False, [], ["barman"], False),
        (0o775, False, [], ["barman"], True),
        # Tried with Debian 13, whose umask is 002: its sshd lets the key in...
        (0o775, True, [], ["barman"], False),
        (0o775, True, ["barman"], [], False),
        # ...but not with others in the group, or in none, or where all may write.
        (0o775, True, ["dba"], ["barman"], True),
        (0o775, True, [], ["barman", "dba"], True),
        (0o775, True, [], [], True),
        (0o777, True, [], ["barman"], True),
    ],
)
def test_group_writable_folder(
    mode: int,
    is_debian: bool,
    named: list[str],
    primary_of: list[str],
    is_open: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def user(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", 101, 104, "", str(tmp_path), "/bin/sh"))

    monkeypatch.setattr(check_login, "DEBIAN", str(tmp_path if is_debian else tmp_path / "no"))
    monkeypatch.setattr("grp.getgrgid", lambda gid: grp.struct_group(("barman", "x", gid, named)))
    monkeypatch.setattr("pwd.getpwall", lambda: [user(name) for name in primary_of])
    status = os.stat_result((mode, 0, 0, 1, 101, 104, 0, 0, 0, 0))
    assert check_login.is_open(status, user("barman")) is is_open


def run(tmp_path: Path, configuration: str, address: str = "10.0.0.3") -> Any:
    """Return what the script prints, with a real sshd that has this configuration."""
    (tmp_path / "sshd_config").write_text(configuration, encoding="utf-8")
    if not (tmp_path / "key").exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    (tmp_path / "sshd").write_text(f'#!/bin/sh\nexec /usr/sbin/sshd -f {tmp_path}/sshd_config -h {tmp_path}/key "$@"\n')
    (tmp_path / "sshd").chmod(0o755)
    source = (
        (ROLE / "files" / "check_login.py")
        .read_text(encoding="utf-8")
        .replace('FOLDERS = "', f'FOLDERS = "{tmp_path}:')
    )
    me = pwd.getpwuid(os.getuid()).pw_name
    words = [me, address, "2222", "", "ssh-ed25519", "ssh-rsa"]
    ran = subprocess.run([sys.executable, "-IS", "-c", source, *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.mark.skipif(not os.path.exists("/usr/sbin/sshd"), reason="no sshd is installed")
def test_real_sshd(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    common = "Port 2222\nStrictModes no\nPermitRootLogin yes\n"
    assert run(tmp_path, common) == {"refusals": [], "types": ["ssh-ed25519", "ssh-rsa"]}
    matched = f"{common}Match Address 10.0.0.0/24\nForceCommand /bin/false\nPubkeyAcceptedAlgorithms rsa-sha2-512\n"
    found = run(tmp_path, matched)
    assert found["types"] == ["ssh-rsa"]
    assert ["ForceCommand is /bin/false" in each for each in found["refusals"]] == [True]
    assert run(tmp_path, matched, "192.0.2.1")["refusals"] == []
    assert run(tmp_path, "Nonsense yes\n") == {"refusals": [], "types": ["ssh-ed25519", "ssh-rsa"]}
