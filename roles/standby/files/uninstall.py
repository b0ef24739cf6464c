"""Remove one of the two programs from a host, unless something there still calls it.

Arguments: the folder of the programs; the folder in the PATH; the program; what calls
it, a folder with a folder for each server or an authorized_keys; the user whose that
is; "True" in Ansible's check mode, which changes nothing; files that go with it. Prints
what was removed. The package goes with the last program. Runs as root, and does all of
it under the lock that install.py and authorize.py take: other runs of the role share
the host.
"""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import stat
import sys
from typing import Iterator, List

PROGRAMS = ("barman-wal-restore", "barman-wal-gate")
# As in install.py.
FORMER = ".before-walbasin"
# Seconds to wait for another run.
LONGEST_WAIT = 60


def give_up(*_: object) -> None:
    """Raise TimeoutError, out of a wait for a lock."""
    raise TimeoutError(f"another process holds the lock on it for more than {LONGEST_WAIT} s")


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the lock of a folder. Raises FileNotFoundError, TimeoutError."""
    descriptor = os.open(folder, os.O_RDONLY)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_WAIT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        signal.alarm(0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Have no other rights than a user: root would follow that user's links."""
    account = pwd.getpwnam(user)
    if account.pw_uid == os.geteuid():
        yield
        return
    groups = os.getgroups()
    os.initgroups(user, account.pw_gid)
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def read(path: str) -> str:
    """Return the text of a regular file, or an empty string where there is none.

    Raises OSError: what calls the program is not known then.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "not a regular file", path)
        return file.read()


def callers_of(program: str, place: str) -> List[str]:
    """Return what still calls a program: servers, or lines of an authorized_keys."""
    if os.path.isdir(place):
        return [entry.name for entry in os.scandir(place) if entry.is_dir()]
    return [line for line in read(place).splitlines() if program in line]


def uninstall(folder: str, bin_folder: str, program: str) -> None:
    """Remove a program and its link. What was there before it comes back."""
    link = os.path.join(bin_folder, program)
    if os.path.lexists(link + FORMER):
        os.replace(link + FORMER, link)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
    os.unlink(os.path.join(folder, program))
    if not any(os.path.exists(os.path.join(folder, each)) for each in PROGRAMS):
        shutil.rmtree(folder)


def remove(path: str) -> None:
    """Remove a file or a folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def main(words: List[str]) -> None:
    """Remove, or tell in check mode what would be removed."""
    folder, bin_folder, program, place, user, check, *files = words
    path = os.path.join(folder, program)
    with contextlib.suppress(FileNotFoundError), locked(folder):
        # Another run may have been here while this one waited.
        if not os.path.exists(path):
            return
        with acting_as(user):
            if callers_of(program, os.path.expanduser(place)):
                return
        print(path)
        if check == "True":
            return
        uninstall(folder, bin_folder, program)
        with acting_as(user):
            for each in files:
                remove(each)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[3]} was not removed: {error}. Correct that and run again.")
