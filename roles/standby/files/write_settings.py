"""Change a file of PostgreSQL's configuration in one step, and print what changes.

Run by the user in whose folder the file is, so that a link leads nobody further than
that user. stdin has the wanted change, in JSON:

path: the file. text: its new content. Without it the file is edited: the lines that
match `remove` go, and `append` becomes the last line, unless it is there already.
is_removed_if_empty: a file without settings goes. group, mode: of a file with `text`.
backup: keep the former file beside it. check: change nothing.

The output never has a secret: of a value that may hold one, only what is known to be
none is shown.
"""

import contextlib
import difflib
import errno
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from typing import Any, Dict, List, Optional

# Settings whose values are no secrets. Other values are masked, also restore_command
# when it is not ours: people write keys and passwords into it.
PLAIN = (
    "standby_mode",
    "recovery_target_timeline",
    "primary_slot_name",
    "trigger_file",
    "include",
    "include_dir",
    "include_if_exists",
)
# Words of primary_conninfo that are no secrets.
PLAIN_WORDS = (
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "application_name",
    "sslmode",
    "channel_binding",
    "connect_timeout",
    "passfile",
    "target_session_attrs",
)
OURS = re.compile(r"(\[ -x \S+ \] && exec )?/usr/local/bin/barman-wal-restore ")
SETTING = re.compile(r"(\s*([A-Za-z_][\w.]*)\s*(?:=\s*|\s))(.*)", re.DOTALL)
QUOTED = re.compile(r"'((?:[^'\\]|''|\\.)*)'\s*", re.DOTALL)
WORD = re.compile(r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s'\\]*)(?:\s+|$)")
MASK = "********"


class CannotWrite(Exception):
    """Say why a file cannot be written."""


def mask_conninfo(conninfo: str) -> str:
    """Return primary_conninfo without what may be secret.

    >>> mask_conninfo("host=angus password='a b=c' user=replicator")
    'host=angus password=******** user=replicator'
    >>> mask_conninfo("postgresql://replicator:secret@angus/")
    '********'
    """
    words: List[str] = []
    at = 0
    while at < len(conninfo):
        match = WORD.match(conninfo, at)
        if not match:
            return MASK
        name, value = match.groups()
        words.append(f"{name}={value if name in PLAIN_WORDS else MASK}")
        at = match.end()
    return " ".join(words)


def mask(line: str) -> str:
    """Return a line of a configuration file without what may be secret.

    >>> mask("restore_command = 'KEY=secret fetch %f %p'")
    "restore_command = '********'"
    """
    if line.lstrip().startswith("#") or not line.strip():
        is_ours = line.startswith("# Written by Ansible (walbasin.barman.standby)") or not line.strip()
        return line if is_ours else f"# {MASK}"
    match = SETTING.fullmatch(line)
    if not match:
        return MASK
    begin, name, value = match.groups()
    name = name.lower()
    quoted = QUOTED.fullmatch(value)
    if name in PLAIN:
        return line if quoted or re.fullmatch(r"[\w.]+\s*", value) else f"{begin}'{MASK}'"
    if quoted:
        text = re.sub(r"\\(.)|''", lambda m: m.group(1) or "'", quoted[1])
        if name == "primary_conninfo":
            return f"{begin}'{mask_conninfo(text)}'"
        if name == "restore_command" and OURS.match(text):
            return line
    return f"{begin}'{MASK}'"


def edit(lines: List[str], remove: Optional[str], append: Optional[str]) -> List[str]:
    """Return the lines without those that match, and with one more.

    >>> edit(["a = 1", "b = 2"], "a =", "c = 3")
    ['b = 2', 'c = 3']
    """
    kept = [line for line in lines if not (remove and re.match(remove, line))]
    return kept if append is None or append in kept else [*kept, append]


def has_settings(lines: List[str]) -> bool:
    """Return whether there is more than comments."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)


def describe(path: str, before: List[str], after: List[str]) -> List[str]:
    """Return the lines that change, with a + or a - in front, without secrets."""
    # Compared as they are: a password that changes is a change.
    found = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    return [f"{path}:", *(f"{line[0]} {mask(line[1:])}" for line in found if line[0] in "+-")]


def read(path: str) -> Optional[str]:
    """Return the content of a file, None where there is none. Raises CannotWrite."""
    try:
        # Never wait for the other end of a pipe, and follow no link.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CannotWrite("it is a link") from error
        raise
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise CannotWrite("it is no regular file")
        return opened.read()


def write(path: str, lines: List[str], wanted: Dict[str, Any]) -> None:
    """Replace a file by one that is whole. One that was edited keeps mode and owner."""
    number, temporary = tempfile.mkstemp(prefix=".walbasin.", dir=os.path.dirname(path))
    try:
        with open(number, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            if "text" in wanted:
                owner, group, mode = -1, int(wanted["group"]), int(wanted["mode"], 8)
            else:
                former = os.lstat(path)
                owner, group, mode = former.st_uid, former.st_gid, stat.S_IMODE(former.st_mode)
            with contextlib.suppress(PermissionError):  # another's file in our folder becomes ours
                os.fchown(number, owner, group)
            os.fchmod(number, mode)
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(number)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def back_up(path: str) -> None:
    """Keep a file beside itself, under a name like those of Ansible's backups."""
    kept = f"{path}.{os.getpid()}.{time.strftime('%Y-%m-%d@%H:%M:%S')}~"
    with open(path, "rb") as source, open(kept, "xb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        shutil.copyfileobj(source, copy)


def split(text: str) -> List[str]:
    """Return the lines of a text, as PostgreSQL sees them."""
    return text[:-1].split("\n") if text.endswith("\n") else text.split("\n") if text else []


def change(wanted: Dict[str, Any]) -> List[str]:
    """Make the change, and return what it was. Raises CannotWrite, OSError."""
    path = wanted["path"]
    former = read(path)
    before = split(former or "")
    after = split(wanted["text"]) if "text" in wanted else edit(before, wanted.get("remove"), wanted.get("append"))
    is_removed = wanted.get("is_removed_if_empty", False) and not has_settings(after)
    if former is None:
        if "text" not in wanted:
            return []
        difference = describe(path, [], after)
    else:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        is_open = "text" in wanted and mode != int(wanted["mode"], 8)
        if before == after and not is_removed and not is_open:
            return []
        difference = describe(path, before, [] if is_removed else after)
        difference += [f"mode: {mode:04o} becomes {wanted['mode']}"] if is_open else []
    if not wanted["check"]:
        if former is not None and wanted.get("backup"):
            back_up(path)
        if is_removed:
            os.unlink(path)
        else:
            write(path, after, wanted)
    return difference


def main() -> None:
    """Carry out what stdin says."""
    wanted = json.loads(sys.stdin.buffer.read())
    try:
        print("\n".join(change(wanted)).encode("utf-8", "replace").decode(), end="")
    except (CannotWrite, OSError) as error:
        sys.exit(f"{wanted['path']}: {getattr(error, 'strerror', None) or error}")


if __name__ == "__main__":
    main()
