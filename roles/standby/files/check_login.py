"""Tell what in sshd's settings would keep a standby's key from working.

Arguments: Barman's user; the address and port of the connection; the type of the key
that the standby has, or nothing; the types that a new key may have. Runs as root on the
Barman host, and changes nothing. Prints JSON: "refusals", a sentence each, and "types",
those of the new ones that sshd takes. Where sshd cannot be asked, nothing is refused.
"""

import contextlib
import fnmatch
import grp
import ipaddress
import json
import os
import pwd
import re
import socket
import subprocess
import sys
from typing import Callable, Dict, List, NamedTuple

# Is there on Debian, and on what is made of it.
DEBIAN = "/etc/debian_version"
FOLDERS = "/usr/sbin:/sbin:/usr/local/sbin"
# Type of a key -> names of its signatures, where it has others than its own.
SIGNATURES = {"ssh-rsa": ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"]}

# As sshd -T prints them: the name in lower case -> its words.
Settings = Dict[str, List[str]]


class Login(NamedTuple):
    """Hold who connects from where."""

    user: str
    uid: str
    groups: List[str]
    home: str
    host: str
    address: str
    port: str


def parse(text: str) -> Settings:
    """Return what `sshd -T` prints. A name can have several lines.

    >>> parse("port 22\\nallowusers a\\nallowusers b c\\n")
    {'port': ['22'], 'allowusers': ['a', 'b', 'c']}
    """
    settings: Settings = {}
    for line in text.splitlines():
        name, *words = line.split() or [""]
        settings.setdefault(name.lower(), []).extend(words)
    return settings


def is_like(text: str, pattern: str) -> bool:
    """Tell whether a text is like a pattern of sshd, with * and ? alone."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text) is not None


def is_host(login: Login, pattern: str) -> bool:
    """Tell whether the client's host or address is like a pattern or in a network."""
    try:
        return ipaddress.ip_address(login.address.split("%")[0]) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return is_like(login.address, pattern) or is_like(login.host.lower(), pattern.lower())


def is_user(login: Login, pattern: str) -> bool:
    """Tell whether a login is like a pattern of AllowUsers: USER or USER@HOST."""
    user, _, host = pattern.rpartition("@") if "@" in pattern else (pattern, "", "")
    return is_like(login.user, user) and (not host or is_host(login, host))


def takes(settings: Settings, key_type: str) -> bool:
    """Tell whether sshd takes a key of this type."""
    names = settings.get("pubkeyacceptedalgorithms", settings.get("pubkeyacceptedkeytypes", []))
    patterns = ",".join(names).split(",")
    signatures = SIGNATURES.get(key_type, [key_type])
    return not names or any(fnmatch.fnmatchcase(name, pattern) for name in signatures for pattern in patterns)


def key_files(settings: Settings, login: Login) -> List[str]:
    """Return the files in which sshd looks for a user's keys, without links."""
    tokens = {"%%": "%", "%h": login.home, "%u": login.user, "%U": login.uid}
    words = (re.sub("%[%huU]", lambda found: tokens[found.group()], word) for word in settings["authorizedkeysfile"])
    return [os.path.realpath(os.path.join(login.home, word)) for word in words if word != "none"]


def refusals_of(settings: Settings, login: Login) -> List[str]:
    """Return why a user would not be let in with any key, a sentence each."""

    def value(name: str) -> str:
        return " ".join(settings.get(name, []))

    user, found = login.user, []
    if value("pubkeyauthentication") == "no":
        found.append(f"PubkeyAuthentication is no. Set it to yes for {user}.")
    file = os.path.realpath(os.path.join(login.home, ".ssh/authorized_keys"))
    if "authorizedkeysfile" in settings and file not in key_files(settings, login):
        command = value("authorizedkeyscommand")
        asked = "" if command in {"", "none"} else f", and asks AuthorizedKeysCommand {command}"
        found.append(
            f"AuthorizedKeysFile is {value('authorizedkeysfile')}{asked}, so {file} is not read. Add "
            f".ssh/authorized_keys to it for {user}."
        )
    methods = settings.get("authenticationmethods", ["any"])
    if not {"any", "publickey"} & {*methods}:
        found.append(f"AuthenticationMethods is {' '.join(methods)}. Let publickey alone do for {user}.")
    for name in ("ForceCommand", "ChrootDirectory"):
        if value(name.lower()) not in {"", "none"}:
            found.append(f"{name} is {value(name.lower())}, so the gate cannot run. Set it to none for {user}.")
    if value("maxsessions") == "0":
        found.append(f"MaxSessions is 0. Set it to at least 1 for {user}.")
    if user == "root" and value("permitrootlogin") == "no":
        found.append("PermitRootLogin is no. Set it to prohibit-password.")
    who = f"{user} comes from {login.address}"
    found += _refusals_of_list(settings, "Users", lambda pattern: is_user(login, pattern), who)
    who = f"{user} is in {', '.join(login.groups) or 'no group'}"
    return found + _refusals_of_list(
        settings, "Groups", lambda pattern: any(is_like(group, pattern) for group in login.groups), who
    )


def _refusals_of_list(settings: Settings, name: str, is_meant: Callable[[str], bool], who: str) -> List[str]:
    """Return why AllowUsers and DenyUsers, or those of groups, keep a login out."""
    denied = [each for each in settings.get(f"deny{name.lower()}", []) if is_meant(each)]
    allowed = settings.get(f"allow{name.lower()}", [])
    found = [f"Deny{name} has {' '.join(denied)} ({who}). Take that out."] if denied else []
    if allowed and not any(map(is_meant, allowed)):
        found.append(f"Allow{name} is {' '.join(allowed)} ({who}). Add to it.")
    return found


def listens(settings: Settings, port: str) -> bool:
    """Tell whether these are the settings of the sshd that listens on this port."""
    addresses = settings.get("listenaddress", [])
    return port in [*settings.get("port", []), *(each.rpartition(":")[2] for each in addresses)]


def account_refusals_of(settings: Settings, account: pwd.struct_passwd) -> List[str]:
    """Return why sshd would not let in this account, as it is on this host."""
    found = []
    if settings.get("strictmodes") == ["yes"]:
        for path in (account.pw_dir, os.path.join(account.pw_dir, ".ssh")):
            if os.path.exists(path) and is_open(os.stat(path), account):
                found.append(
                    f"StrictModes is yes, and {path} is not {account.pw_name}'s alone. "
                    f"Run chown {account.pw_name} {path} and chmod go-w {path}."
                )
    if settings.get("usepam") == ["no"] and is_locked(account.pw_name):
        found.append(f"UsePAM is no, and {account.pw_name} is locked. Run usermod -p '*' {account.pw_name}.")
    return found


def is_open(status: os.stat_result, account: pwd.struct_passwd) -> bool:
    """Tell whether others than root and this user could change a folder.

    Debian's sshd does not mind a group that is the user's alone: there a umask of 002
    is usual.
    """
    writable = 0o002 if os.path.exists(DEBIAN) and is_private(status.st_gid, account.pw_name) else 0o022
    return bool(status.st_mode & writable) or status.st_uid not in {0, account.pw_uid}


def is_private(gid: int, user: str) -> bool:
    """Tell whether a group has this user, and nobody else."""
    try:
        named = grp.getgrgid(gid).gr_mem
    except KeyError:
        return False
    return {*named, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == gid)} == {user}


def is_locked(user: str) -> bool:
    """Tell whether a user's password is locked, as sshd reads it on Linux."""
    ran = subprocess.run(["getent", "shadow", user], stdout=subprocess.PIPE, text=True, check=False)
    return ran.stdout.split(":")[1:2] != [] and ran.stdout.split(":")[1].startswith("!")


def groups_of(account: pwd.struct_passwd) -> List[str]:
    """Return the names of a user's groups."""
    names = []
    for gid in os.getgrouplist(account.pw_name, account.pw_gid):
        with contextlib.suppress(KeyError):  # a group without a name
            names.append(grp.getgrgid(gid).gr_name)
    return names


def ask(login: Login) -> Settings:
    """Return sshd's settings for a login, or nothing where it does not tell."""
    test = f"user={login.user},host={login.host},addr={login.address},lport={login.port}"
    path = f"{FOLDERS}:{os.environ.get('PATH', '')}"
    try:
        ran = subprocess.run(
            ["sshd", "-T", "-C", test],
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse(ran.stdout) if ran.returncode == 0 else {}


def name_of(address: str) -> str:
    """Return the name of an address, or the address."""
    try:
        return socket.gethostbyaddr(address)[0]
    except OSError:
        return address


def type_refusals_of(settings: Settings, present: str, types: List[str]) -> List[str]:
    """Return why sshd takes neither the present key nor, without one, a new one."""
    wanted = [present] if present else types
    if any(takes(settings, each) for each in wanted):
        return []
    remedy = "Remove the key: the next run makes another one." if present else "Add one of these."
    return [f"PubkeyAcceptedAlgorithms has nothing for a key of type {' or '.join(wanted)}. {remedy}"]


def main(user: str, address: str, port: str, present: str, *types: str) -> None:
    """Print what would keep the key of a standby at this address from working."""
    account = pwd.getpwnam(user)
    host = str(ipaddress.ip_address(address.partition("%")[0]))
    login = Login(
        user=user,
        uid=str(account.pw_uid),
        groups=groups_of(account),
        home=account.pw_dir,
        host=host,
        address=address,
        port=port,
    )
    settings = ask(login)
    if settings.get("usedns") == ["yes"]:
        login = login._replace(host=name_of(host))
        settings = ask(login)
    refusals, taken = [], list(types)
    if settings and listens(settings, port):
        refusals = refusals_of(settings, login) + account_refusals_of(settings, account)
        refusals += type_refusals_of(settings, present, taken)
        taken = [each for each in types if takes(settings, each)]
    json.dump({"refusals": refusals, "types": taken}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
