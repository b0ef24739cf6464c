"""Write one standby's line into an authorized_keys: the one on stdin.

It replaces all lines that have its comment or its key; an empty line removes them.
Prints what was different; with a third argument "True" (Ansible's check mode) it
changes nothing. Runs as the user whose file it is. The file is read, written and
renamed under a lock, because other keys lie in it, and other runs of the role write to
it.
"""

import difflib
import fcntl
import os
import subprocess
import sys
from typing import List


def read(path: str) -> str:
    """Return the text of a file, or an empty string where there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def is_key(line: str) -> bool:
    """Tell whether ssh-keygen finds a key in a line."""
    ran = subprocess.run(["ssh-keygen", "-lf", "-"], input=line, text=True, stdout=subprocess.DEVNULL, check=False)
    return ran.returncode == 0


def is_open_to_others(path: str) -> bool:
    """Tell whether others can write to a file: then sshd does not read it."""
    return os.path.exists(path) and bool(os.stat(path).st_mode & 0o022)


def with_line(lines: List[str], line: str, comment: str) -> List[str]:
    """Return the lines with this one in place of the standby's former ones."""
    names = {comment, *line.split()[-2:-1]}
    ours = [index for index, each in enumerate(lines) if names & set(each.split())]
    place = ours[0] if ours else len(lines)
    kept = [each for index, each in enumerate(lines) if index not in ours]
    return kept[:place] + ([line] if line else []) + kept[place:]


def write(path: str, lines: List[str]) -> None:
    """Replace a file at once and on disk: without it nobody gets in.

    The primary's archive_command needs it too.
    """
    with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
        os.fchmod(file.fileno(), 0o600)
        file.writelines(each + "\n" for each in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def main(path: str, comment: str, is_check: bool) -> None:
    """Write the line, or tell in check mode what would be different."""
    os.umask(0o077)
    line = sys.stdin.read().strip()
    if line and not is_key(line):
        sys.exit(f"{path} was left as it is: this is no line of such a file: {line}")
    path = os.path.realpath(os.path.expanduser(path))
    if not is_check:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fcntl.flock(os.open(os.path.dirname(path), os.O_RDONLY), fcntl.LOCK_EX)
    before = read(path).splitlines()
    after = with_line(before, line, comment)
    differences = [each for each in difflib.ndiff(before, after) if each[0] in "+-"]
    if is_open_to_others(path):
        differences.append(f"{path} could be written to by others")
    print(*differences, sep="\n", end="")
    if differences and not is_check:
        write(path, after)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], is_check=sys.argv[3] == "True")
    except OSError as error:
        sys.exit(f"{sys.argv[1]} could not be changed: {error}")
