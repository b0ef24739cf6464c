"""Turn a restored backup into the data directory of a standby.

Runs as PostgreSQL's user. Arguments: the step; the data directory; the folder beside it
(the container); the major version of PostgreSQL; for `clear` what it says there, and
the folders of tablespaces; for `place` the backup's name. The steps, each of which can
be repeated after a run that was killed:

keep: keep the settings that lie in the data directory. clear: make room for the copy,
where the old data directory is to be discarded. place: clean the copy, and give it the
data directory's name. tidy: remove what is needed no more.

During the copy nothing has the data directory's name but, maybe, the old one: so a
server cannot start with half a copy. Prints what a person should know, a line each.
"""

import glob
import os
import re
import shutil
import sys
import time
from typing import Iterator, List, Sequence

# What Barman leaves in a copy, and what must not be there in a standby's.
LEFTOVERS = re.compile(
    r"\.barman-recover\.info|backup_manifest(\..*)?|.*\.origin|recovery\.(signal|conf|done)|postmaster\.(pid|opts)"
    r"|barman_wal|\.barman_write_check|walbasin\.placed"
)
# Has the name of the backup, until the standby has caught up.
PLACED = "walbasin.placed"
# Settings of another server's recovery, in what was restored of its configuration.
RECOVERY = re.compile(
    r"\s*(restore_command|primary_conninfo|primary_slot_name|recovery_\w+|archive_cleanup_command|promote_trigger_file"
    r"|trigger_file|standby_mode)\b",
    re.IGNORECASE,
)
# What a standby that Barman has made once has from it. The role writes its own.
RESTORE_COMMAND = re.compile(r"\s*restore_command\b", re.IGNORECASE)
# Settings that may name files of another server.
PATHS = re.compile(
    r"^\s*(data_directory|hba_file|ident_file|external_pid_file|include\w*|ssl_\w+_file)\s*=?\s*(\S.*)$",
    re.MULTILINE | re.IGNORECASE,
)
CONFIGURATION = ("postgresql.conf", "postgresql.auto.conf")


class Places:
    """Hold the paths of one rebuild."""

    def __init__(self, data: str, container: str) -> None:
        self.data = data
        self.container = container
        self.new = os.path.join(container, "new")
        self.settings = os.path.join(container, "settings")
        self.progress = os.path.join(container, "progress")
        self.discarded = os.path.join(container, "discarded")
        # The folders of tablespaces that this rebuild may write into, a line each.
        self.tablespaces = os.path.join(container, "tablespaces")


def sync(folder: str) -> None:
    """Have a folder's names on disk before the next step."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep(places: Places) -> None:
    """Copy the configuration files out of the data directory.

    Of one that is damaged they are taken once only.
    """
    os.makedirs(places.container, 0o700, exist_ok=True)
    is_whole = os.path.isfile(os.path.join(places.data, "PG_VERSION"))
    if not os.path.isdir(places.data) or (os.path.exists(places.settings) and not is_whole):
        return
    shutil.rmtree(places.settings + ".new", ignore_errors=True)
    os.mkdir(places.settings + ".new", 0o700)
    for name in sorted(os.listdir(places.data)):
        path = os.path.join(places.data, name)
        if name.endswith(".conf") and os.path.isfile(path) and not os.path.islink(path):
            shutil.copy2(path, os.path.join(places.settings + ".new", name))
    remove(places.settings)
    os.sync()
    os.rename(places.settings + ".new", places.settings)
    sync(places.container)


def clear(places: Places, version: int, words: Sequence[str]) -> None:
    """Make room for the copy.

    words: delta: Barman takes from the old directory what is the same there. empty:
    it refuses folders that are not empty. discard: the old data directory goes. It
    loses its name before it loses a file, so that a server cannot start with half of
    it. Paths: the folders of tablespaces. Each is empty, or has what is discarded or
    what a run that was killed has copied.
    """
    is_delta, has_to_be_empty, is_discarded = (word in words for word in ("delta", "empty", "discard"))
    folders = [word for word in words if word.startswith("/")]
    # An earlier run may have filled others.
    claimed = read(places.tablespaces).splitlines() if os.path.exists(places.tablespaces) else []
    write(places.tablespaces, "".join(f"{folder}\n" for folder in dict.fromkeys([*claimed, *folders])))
    sync(places.container)
    remove(places.discarded)
    if has_to_be_empty:
        remove(places.new)
    if is_discarded and os.path.isdir(places.data):
        if is_delta and not os.path.exists(places.new):
            os.rename(places.data, places.new)
        else:
            os.rename(places.data, places.discarded)
            sync(os.path.dirname(places.data))
            remove(places.discarded)
    if has_to_be_empty:
        for folder in folders:
            remove(os.path.join(folder, ".barman_write_check"))
            for path in glob.glob(os.path.join(glob.escape(folder), f"PG_{version}_*")):
                remove(path)
    sync(places.container)


def remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def without(settings: "re.Pattern[str]", text: str) -> str:
    """Return a configuration without these settings.

    >>> without(RECOVERY, "port = 5432\\nrestore_command = 'x'\\n")
    'port = 5432\\n'
    """
    return "".join(line for line in text.splitlines(keepends=True) if not settings.match(line))


def foreign_paths(text: str) -> List[str]:
    """Return the settings that may name files of the server that was backed up.

    >>> foreign_paths("hba_file = '/etc/x' # here\\n#ident_file = 'y'\\n")
    ["hba_file = '/etc/x' # here"]
    """
    return [f"{name} = {value}" for name, value in PATHS.findall(text)]


def give_configuration_back(places: Places) -> Iterator[str]:
    """Put the kept settings into the copy; without any, the backup's own, cleaned."""
    kept = os.listdir(places.settings) if os.path.isdir(places.settings) else []
    for name in kept:
        if not LEFTOVERS.fullmatch(name):
            shutil.copy2(os.path.join(places.settings, name), os.path.join(places.new, name))
    if "postgresql.auto.conf" in kept:
        path = os.path.join(places.new, "postgresql.auto.conf")
        write(path, without(RESTORE_COMMAND, read(path)))
    for name in set(CONFIGURATION) - set(kept):
        path = os.path.join(places.new, name)
        source = path + ".origin" if os.path.exists(path + ".origin") else path
        if os.path.exists(source):
            text = without(RECOVERY, read(source))
            write(path, text)
            yield from (f"{name} is the backed-up server's: {each}" for each in foreign_paths(text))


def read(path: str) -> str:
    """Return the text of a configuration file, whatever its encoding."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def write(path: str, text: str) -> None:
    """Write a file that PostgreSQL's user alone can read."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def clean(places: Places, version: int) -> None:
    """Remove what is not a standby's, and make it one."""
    for name in os.listdir(places.new):
        path = os.path.join(places.new, name)
        if LEFTOVERS.fullmatch(name):
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    os.makedirs(os.path.join(places.new, "pg_wal", "archive_status"), 0o700, exist_ok=True)
    if version >= 12:
        write(os.path.join(places.new, "standby.signal"), "")
    elif os.path.exists(os.path.join(places.settings, "recovery.conf")):
        # The role adds restore_command, and keeps the rest.
        kept = read(os.path.join(places.settings, "recovery.conf"))
        write(os.path.join(places.new, "recovery.conf"), without(RESTORE_COMMAND, kept))
    os.chmod(places.new, 0o700)


def place(places: Places, version: int, backup: str) -> Iterator[str]:
    """Give the copy the data directory's name. Yields what a person should know.

    backup: its name, which the next run finds, should this one not come to its end.
    """
    if os.path.isdir(places.new):
        yield from give_configuration_back(places)
        clean(places, version)
        if os.path.isdir(places.data) and os.listdir(places.data):
            old = os.path.join(places.container, time.strftime("old-%Y%m%dT%H%M%S"))
            os.rename(places.data, old)
            yield f"the old data directory is kept in {old}"
        # Should the host die, the next run takes what is in its place for whole.
        os.sync()
        write(os.path.join(places.new, PLACED), f"{backup}\n")
        os.rename(places.new, places.data)
        # From now on the links in pg_tblspc tell whose tablespaces they are.
        remove(places.tablespaces)
        sync(places.container)
        sync(os.path.dirname(places.data))


def tidy(places: Places) -> None:
    """Remove what is needed no more, and the container where nothing is kept."""
    for path in (places.settings, places.progress, places.tablespaces, os.path.join(places.data, PLACED)):
        remove(path)
    if os.path.isdir(places.container) and not os.listdir(places.container):
        os.rmdir(places.container)


def main(step: str, data: str, container: str, version: str, *words: str) -> None:
    """Carry out a step."""
    os.umask(0o077)
    places = Places(data, container)
    if step == "keep":
        keep(places)
    elif step == "clear":
        clear(places, int(version), words)
    elif step == "place":
        print(*place(places, int(version), *words), sep="\n")
    elif step == "tidy":
        tidy(places)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
