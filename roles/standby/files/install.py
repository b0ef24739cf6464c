"""Install the files that come on stdin (JSON: path -> text) into a folder of the host.

Also makes their byte code and their links in the PATH, and removes what is not ours
from the folder: Python looks there first for a module. All in one round trip: Ansible's
copy takes several for each file. Prints what was different, a path a line; with a third
argument "True" (Ansible's check mode) it changes nothing. Runs as root: nobody else may
change what is installed.
"""

import compileall
import contextlib
import fcntl
import grp
import json
import os
import pwd
import shutil
import signal
import stat
import sys
from typing import Dict, Iterator, List

FOLDER_MODE = 0o755
# Installed by another call of this script, for the other program.
PROGRAMS = ("barman-wal-restore", "barman-wal-gate")
# Seconds to wait for another run.
LONGEST_WAIT = 60
# The name under which a former program in the PATH is kept, for instance Barman's own
# client. It comes back when ours is removed.
FORMER = ".before-walbasin"


def mode_of(text: str) -> int:
    """Return the mode of a file with this text: executable if it is a script."""
    return 0o755 if text.startswith("#!") else 0o644


def is_ours_alone(status: os.stat_result, mode: int) -> bool:
    """Tell whether a file is root's and has this mode."""
    return stat.S_IMODE(status.st_mode) == mode and status.st_uid == os.getuid()


def open_parents(paths: List[str]) -> List[str]:
    """Return the folders above that others than root could change."""
    above = {os.path.abspath(path) for path in paths}
    while {os.path.dirname(path) for path in above} - above:
        above |= {os.path.dirname(path) for path in above}
    return [path for path in sorted(above) if os.path.isdir(path) and is_open(os.stat(path))]


def is_open(status: os.stat_result) -> bool:
    """Tell whether others than root and this user can replace what is in a folder."""
    if status.st_uid not in {0, os.getuid()}:
        return True
    # In a folder with the sticky bit everybody replaces only what is their own.
    if status.st_mode & 0o002 and not status.st_mode & stat.S_ISVTX:
        return True
    return bool(status.st_mode & 0o020) and has_members(status.st_gid)


def has_members(gid: int) -> bool:
    """Tell whether a group has others than root. Debian's staff has none at first."""
    members = {each.pw_name for each in pwd.getpwall() if each.pw_gid == gid}
    with contextlib.suppress(KeyError):  # a group without a name
        members.update(grp.getgrgid(gid).gr_mem)
    return bool(members - {"root"})


def is_installed(path: str, text: str) -> bool:
    """Tell whether a regular file with this text, owner and mode is there."""
    try:
        status = os.lstat(path)
        with open(path, encoding="utf-8", newline="") as file:
            return stat.S_ISREG(status.st_mode) and is_ours_alone(status, mode_of(text)) and file.read() == text
    except (OSError, UnicodeDecodeError):
        return False


def is_linked(link: str, path: str) -> bool:
    """Tell whether a link to this path is there."""
    return os.path.islink(link) and os.readlink(link) == path


def is_wanted(path: str, files: Dict[str, str]) -> bool:
    """Tell whether a path belongs to the package: a file, its folder, its byte code."""
    folder, name = os.path.split(path)
    if os.path.basename(folder) == "__pycache__":
        return os.path.join(os.path.dirname(folder), name.split(".")[0] + ".py") in files
    if name == "__pycache__":
        path = folder
    return path in files or any(file.startswith(path + "/") for file in files)


def find_stale(top: str, files: Dict[str, str]) -> List[str]:
    """Return what lies in the folder and is not wanted, each tree once."""
    others = [os.path.join(top, name) for name in PROGRAMS]
    stale = []
    # A link is not followed: its target is not the program's.
    for folder, folders, names in os.walk(top) if not os.path.islink(top) else ():
        paths = [os.path.join(folder, name) for name in folders + names]
        unwanted = [path for path in paths if path not in others and not is_wanted(path, files)]
        stale += unwanted
        folders[:] = [name for name in folders if os.path.join(folder, name) not in unwanted]
    return stale


def remove(path: str) -> None:
    """Remove a file, a link or a whole folder."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def install(path: str, text: str) -> None:
    """Write a file and rename it: PostgreSQL may call what is there at any moment."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8", newline="") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode_of(text))
    os.replace(path + ".new", path)


def put_link(link: str, path: str) -> None:
    """Put a link to this path in place of whatever is there, which is kept."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link + ".new")
    os.symlink(path, link + ".new")
    if os.path.lexists(link):
        keep(link)
    os.replace(link + ".new", link)


def keep(path: str) -> None:
    """Give a file a second name, so that it never misses under the first."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + FORMER)
    os.link(path, path + FORMER, follow_symlinks=False)


def close(folder: str) -> None:
    """Let nobody but root write to a folder."""
    os.chown(folder, os.getuid(), os.getgid())
    os.chmod(folder, FOLDER_MODE)


def give_up(*_: object) -> None:
    """Raise TimeoutError, out of a wait for a lock."""
    raise TimeoutError(f"another process holds the lock on it for more than {LONGEST_WAIT} s")


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold a lock: two runs at once would write to each other's unfinished files."""
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_WAIT)
    lock = -1
    # A removal may have taken the folder away while this run waited.
    while lock < 0 or not os.path.exists(folder) or not os.path.samestat(os.fstat(lock), os.stat(folder)):
        os.makedirs(folder, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    signal.alarm(0)
    try:
        yield
    finally:
        os.close(lock)


def main(folder: str, bin_folder: str, is_check: bool) -> None:
    """Install, or tell in check mode what would be different."""
    os.umask(0o022)
    files = {os.path.join(folder, name): text for name, text in json.load(sys.stdin).items()}
    links = {
        os.path.join(bin_folder, os.path.basename(path)): path for path, text in files.items() if text.startswith("#!")
    }
    parents = open_parents([os.path.dirname(folder), bin_folder])
    if parents:
        raise PermissionError(f"{', '.join(parents)} must be root's, and others must not write to it")
    with contextlib.nullcontext() if is_check else locked(folder):
        open_folders = [path for path, _, _ in os.walk(folder) if not is_ours_alone(os.stat(path), FOLDER_MODE)]
        missing = [path for path, text in files.items() if not is_installed(path, text)]
        unlinked = [link for link, path in links.items() if not is_linked(link, path)]
        print(*open_folders, *missing, *unlinked, *find_stale(folder, files), sep="\n", end="")
        if is_check:
            return
        for path in open_folders:
            close(path)
        # The deepest first: modules come before the program that imports them.
        for path in sorted(missing, key=lambda path: -path.count("/")):
            install(path, files[path])
        # Compile everything again when somebody may have put other byte code there.
        compileall.compile_dir(folder, quiet=1, force=bool(open_folders or missing))
        for link in unlinked:
            put_link(link, links[link])
        # Last, because the former program needs these until the new one is complete.
        for path in find_stale(folder, files):
            remove(path)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], is_check=sys.argv[3] == "True")
    except OSError as error:
        sys.exit(f"{sys.argv[1]} is not complete: {error}. Correct that and run again.")
