"""Installs the files that come on stdin (JSON: path -> text) into a folder, and byte code beside them.

One round trip for all: Ansible's copy takes several for each file. Prints the files that had to be written, or with a
second argument "True" would have to be (Ansible's check mode). Run as root: nobody else may change what is installed.
"""

import compileall
import json
import os
import stat
import sys


def mode_of(text: str) -> int:
    return 0o755 if text.startswith("#!") else 0o644


def is_installed(path: str, text: str) -> bool:
    try:
        status = os.lstat(path)
        with open(path, encoding="utf-8", newline="") as file:
            return (
                file.read() == text
                and stat.S_ISREG(status.st_mode)
                and stat.S_IMODE(status.st_mode) == mode_of(text)
                and status.st_uid == os.getuid()
            )
    except (OSError, UnicodeDecodeError):
        return False


def install(path: str, text: str) -> None:
    """Atomically: PostgreSQL may call what is there at any moment."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8", newline="") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode_of(text))
    os.replace(path + ".new", path)


def main(folder: str, is_check: bool) -> None:
    os.umask(0o022)
    for name, text in json.load(sys.stdin).items():
        path = os.path.join(folder, name)
        if not is_installed(path, text):
            print(name)
            if not is_check:
                install(path, text)
    if not is_check:
        compileall.compile_dir(folder, quiet=1)


if __name__ == "__main__":
    main(sys.argv[1], is_check=sys.argv[2] == "True")
