"""Write one standby's line into an authorized_keys: the one on stdin.

Arguments: the file; the comment of the standby's lines; "True" in Ansible's check mode,
which changes nothing; the folder in which the gate has to be, or nothing; a file to be
removed afterwards, or nothing.

The line replaces all lines that have its comment or its key; an empty line removes
those with the comment. A line whose comment ends with "+open" is put before the others
of its key, which stay, and goes with them. Prints what was different. Runs as the user
whose file it is. The file is read, written and renamed under a lock, because other keys
lie in it, and other runs of the role write to it.
"""

import contextlib
import difflib
import fcntl
import os
import re
import signal
import subprocess
import sys
from typing import List, Set

# What the role writes, and nothing else: what a host has said may be part of it.
LINE = re.compile(
    r'restrict,(?:from="[0-9A-Za-z.:/*?!,%_-]+",)?'
    r"""command="(?:/[A-Za-z0-9_./-]*/)?barman-wal-gate(?: [A-Za-z0-9_.:/+='@%,~ -]+)?" """
    r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2} \S+"
)
# Ends the comment of a line that is there for a moment, beside the standby's own.
OPEN = "+open"
# Seconds to wait for another run.
LONGEST_WAIT = 60


def read(path: str) -> str:
    """Return the text of a file, or an empty string where there is none."""
    try:
        # Only a line feed ends a line, as for sshd: whoever wrote a comment could
        # otherwise have a part of it become a line.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def lines_of(text: str) -> List[str]:
    """Return the lines of a text, as sshd reads them."""
    return text.split("\n")[: -1 if text.endswith("\n") else None] if text else []


def is_key(line: str) -> bool:
    """Tell whether ssh-keygen finds a key in a line."""
    ran = subprocess.run(["ssh-keygen", "-lf", "-"], input=line, text=True, stdout=subprocess.DEVNULL, check=False)
    return ran.returncode == 0


def is_open_to_others(path: str) -> bool:
    """Tell whether others can write to a file: then sshd does not read it."""
    return os.path.exists(path) and bool(os.stat(path).st_mode & 0o022)


def error_of(text: str, comment: str) -> str:
    """Return why a text is not the line of a standby, or an empty string."""
    line = text[:-1] if text.endswith("\n") else text
    if not line.isprintable():
        return "this is more than one line, or has a control character"
    if not line.strip():
        return ""
    if not LINE.fullmatch(line) or line.split(" ")[-1] != comment:
        return "this is not a line of barman-wal-gate for one standby"
    return "" if is_key(line) else "this is no line of such a file"


def has_any(line: str, words: Set[str]) -> bool:
    """Tell whether a line has one of these words, or one with +open behind it."""
    return any(word in words or (word.endswith(OPEN) and word[: -len(OPEN)] in words) for word in line.split())


def other_owner(lines: List[str], line: str, comment: str) -> str:
    """Return the comment of another standby's line with the same key, or nothing.

    A standby says which key is its own: it must not take away the line of another.
    """
    others = (each.split() for each in lines if not each.startswith("#") and has_any(each, {*line.split()[-2:-1]}))
    names = (words[-1] for words in others if words[-1].startswith("walbasin:"))
    return next((name for name in names if standby_of(name) != standby_of(comment)), "")


def standby_of(comment: str) -> str:
    """Return a comment without what is added for a rotation and for a moment."""
    return re.sub(r"(\+next)?(\+open)?$", "", comment)


def with_line(lines: List[str], line: str, comment: str) -> List[str]:
    """Return the lines with this one in place of the standby's former ones."""
    names = {comment, *line.split()[-2:-1]}
    same = [each for each in lines if has_any(each, names)]
    place = lines.index(same[0]) if same else len(lines)
    former = [each for each in same if has_any(each, {comment})] if comment.endswith(OPEN) else same
    wanted = [*lines[:place], line, *lines[place:]] if line else lines
    return [each for each in wanted if each is line or each not in former]


def write(path: str, lines: List[str]) -> None:
    """Replace a file at once and on disk: without it nobody gets in.

    The primary's archive_command needs it too.
    """
    with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        os.fchmod(file.fileno(), 0o600)
        file.writelines(each + "\n" for each in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def give_up(*_: object) -> None:
    """Raise TimeoutError, out of a wait for a lock."""
    raise TimeoutError(f"another process holds the lock on it for more than {LONGEST_WAIT} s")


def lock(folder: str, operation: int) -> None:
    """Lock a folder until this process ends. Raises TimeoutError."""
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_WAIT)
    fcntl.flock(os.open(folder, os.O_RDONLY), operation)
    signal.alarm(0)


def require_gate(folder: str) -> None:
    """Let nobody remove the gate until this process ends.

    The removal of another standby looks for lines that call it, under the same lock.
    Raises FileNotFoundError, TimeoutError.
    """
    lock(folder, fcntl.LOCK_SH)
    os.stat(os.path.join(folder, "barman-wal-gate"))


def main(path: str, comment: str, is_check: bool, gate_folder: str = "", leftover: str = "") -> None:
    """Write the line, or tell in check mode what would be different."""
    os.umask(0o077)
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    error = error_of(text, comment)
    if error:
        sys.exit(f"{path} was left as it is: {error}: {text.rstrip(chr(10))!r}")
    line = text.strip()
    path = os.path.realpath(os.path.expanduser(path))
    if not is_check:
        if line and gate_folder:
            require_gate(gate_folder)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock(os.path.dirname(path), fcntl.LOCK_EX)
    before = lines_of(read(path))
    other = other_owner(before, line, comment)
    if other:
        sys.exit(
            f"{path} was left as it is: the key is that of {other}. Give each standby a key of its own, or take "
            "that line away if there is no such standby any more."
        )
    after = with_line(before, line, comment)
    differences = [each for each in difflib.ndiff(before, after) if each[0] in "+-"]
    if is_open_to_others(path):
        differences.append(f"{path} could be written to by others")
    print(*differences, sep="\n", end="")
    if differences and not is_check:
        write(path, after)
    if leftover and not is_check:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3] == "True", *sys.argv[4:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]} could not be changed: {error}")
