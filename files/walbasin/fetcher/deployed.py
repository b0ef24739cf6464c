"""Read which restore_command the role has set up here, for those who call by hand.

Without its options -t and --status would test another way, and look at another spool,
than PostgreSQL's calls.
"""

import json
import os
import shlex
import stat
from typing import Callable, List, Optional

# Where the role records it: FOLDER/SERVER/FILE.
FOLDER, FILE = "/etc/walbasin", "standby.json"
# Bytes of such a file, more than any real one has.
LONGEST = 1 << 20
# Who must own it: root.
OWNER = 0


def path_for(server: str) -> str:
    """Return where the role records a Barman server's standby."""
    return os.path.join(FOLDER, server, FILE)


def read_command(barman_host: str, server: str, data: Optional[str]) -> List[str]:
    """Return the words behind the program in restore_command; none where there is none.

    barman_host: one name, or several with commas, of those that are recorded. data: the
    data directory, None where it is not known. What is recorded for another one, or
    what anybody but root can write, is ignored.
    """
    if "/" in server or server in (".", ".."):
        return []
    try:
        for folder in (FOLDER, os.path.join(FOLDER, server)):
            if not _is_trusted(os.lstat(folder), stat.S_ISDIR):
                return []
        descriptor = os.open(path_for(server), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not _is_trusted(os.fstat(descriptor), stat.S_ISREG):
                return []
            text = file.read(LONGEST).decode()
        return parse(text, barman_host, server, data)
    except (OSError, ValueError, RecursionError):
        return []


def _is_trusted(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return is_kind(status.st_mode) and status.st_uid == OWNER and not status.st_mode & 0o022


def parse(text: str, barman_host: str, server: str, data: Optional[str]) -> List[str]:
    """Return what read_command does, for the text of a standby.json.

    Raises ValueError for one that cannot be read.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("barman_server") != server:
        return []
    if not set(barman_host.split(",")) <= set(str(found.get("barman_host")).split(",")):
        return []
    folder, command = found.get("data_directory"), found.get("restore_command")
    if not isinstance(folder, str) or not isinstance(command, str):
        return []
    if data is not None and os.path.realpath(folder) != data:
        return []
    words = shlex.split(command)
    calls = [index for index, word in enumerate(words) if os.path.basename(word) == "barman-wal-restore"]
    # Where the settings lie in the data directory a guard is around the call, which
    # names the program before, and goes on behind "%p".
    call = words[calls[-1] + 1 :] if calls else []
    end = next((index for index, word in enumerate(call) if word.startswith("%p")), len(call))
    return [word.replace("%%", "%") for word in call[:end]] + (["%p"] if call[end:] else [])
