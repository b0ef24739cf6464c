"""Installs the files that come on stdin (JSON: path -> text) into a folder, byte code beside them, links in the PATH.

One round trip for all: Ansible's copy takes several for each file. Prints what had to be written, or with a third
argument "True" would have to be (Ansible's check mode). Run as root: nobody else may change what is installed.
"""

import compileall
import contextlib
import fcntl
import json
import os
import stat
import sys
from typing import Iterator

FOLDER_MODE = 0o755
# What lay in the PATH before, as Barman's own client does that pip installed: it comes back when ours is removed.
FORMER = ".before-walbasin"


def mode_of(text: str) -> int:
    return 0o755 if text.startswith("#!") else 0o644


def is_ours_alone(status: os.stat_result, mode: int) -> bool:
    return stat.S_IMODE(status.st_mode) == mode and status.st_uid == os.getuid()


def is_installed(path: str, text: str) -> bool:
    try:
        status = os.lstat(path)
        with open(path, encoding="utf-8", newline="") as file:
            return stat.S_ISREG(status.st_mode) and is_ours_alone(status, mode_of(text)) and file.read() == text
    except (OSError, UnicodeDecodeError):
        return False


def is_linked(link: str, path: str) -> bool:
    return os.path.islink(link) and os.readlink(link) == path


def install(path: str, text: str) -> None:
    """Atomically: PostgreSQL may call what is there at any moment."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8", newline="") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode_of(text))
    os.replace(path + ".new", path)


def put_link(link: str, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link + ".new")
    os.symlink(path, link + ".new")
    if os.path.lexists(link):
        keep(link)
    os.replace(link + ".new", link)


def keep(path: str) -> None:
    """Under a second name, so that there is something under the first at any moment."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + FORMER)
    os.link(path, path + FORMER, follow_symlinks=False)


def close(folder: str) -> None:
    """To everybody else."""
    os.chown(folder, os.getuid(), os.getgid())
    os.chmod(folder, FOLDER_MODE)


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Two who write at once would write into each other's unfinished files."""
    os.makedirs(folder, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def main(folder: str, bin_folder: str, is_check: bool) -> None:
    os.umask(0o022)
    files = {os.path.join(folder, name): text for name, text in json.load(sys.stdin).items()}
    links = {
        os.path.join(bin_folder, os.path.basename(path)): path for path, text in files.items() if text.startswith("#!")
    }
    with contextlib.nullcontext() if is_check else alone(folder):
        open_folders = [path for path, _, _ in os.walk(folder) if not is_ours_alone(os.stat(path), FOLDER_MODE)]
        missing = [path for path, text in files.items() if not is_installed(path, text)]
        unlinked = [link for link, path in links.items() if not is_linked(link, path)]
        print(*open_folders, *missing, *unlinked, sep="\n", end="")
        if is_check:
            return
        for path in open_folders:
            close(path)
        for path in missing:
            install(path, files[path])
        # Anew, when somebody may have put other byte code there.
        compileall.compile_dir(folder, quiet=1, force=bool(open_folders or missing))
        for link in unlinked:
            put_link(link, links[link])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], is_check=sys.argv[3] == "True")
