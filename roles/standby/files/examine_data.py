"""Tell what lies where a standby is to be made anew, and print it as JSON.

Runs as PostgreSQL's user on the standby (run_with_package.py), and changes nothing. Its
argument has, in JSON:

data: the data directory, which may be gone. container: the folder beside it, of this
rebuild and of one that was interrupted.
settings: more folders in which settings of the server lie.
version: PostgreSQL's, of the backup. copied: what comes there of it: bytes of the data
directory and of each tablespace, by folder. Nothing where no backup is known.
discards: the old data directory makes room.
"""

import contextlib
import glob
import json
import os
import re
import sys
from typing import Any, Dict, Iterable, Iterator, List, Set

# Bytes that replay needs beside the copy, in pg_wal.
WAL_ROOM = 1 << 30
CONNINFO = re.compile(r"^\s*primary_conninfo\s*=?\s*'[^']", re.MULTILINE | re.IGNORECASE)


def size_of(path: str) -> int:
    """Return the bytes that a folder takes, without what its links lead to."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def nearest(path: str) -> str:
    """Return the path, or of what is above it the first that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def free_bytes(path: str) -> int:
    """Return how many bytes PostgreSQL's user can still write there."""
    found = os.statvfs(nearest(path))
    return found.f_bavail * found.f_frsize


def texts(folders: List[str]) -> Iterator[str]:
    """Yield the texts of the configuration files in these folders."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                if name.endswith(".conf") and os.path.isfile(path):
                    with open(path, encoding="utf-8", errors="replace") as file:
                        yield file.read()


def read_end(cluster: Any) -> Any:
    """Return how far pg_wal was written, a Position.

    That is more than pg_control says of a primary that has crashed. Of a standby, which
    may write the first part of a page over old bytes, it is where the last page begins.
    """
    from walbasin.local import data_directory
    from walbasin.wal import segment

    name = next(data_directory.newest_segments(cluster), "")
    if not name:
        return data_directory.Position(0, 0)
    with open(cluster.file(f"pg_wal/{name}"), "rb") as file:
        offset, page = segment.last_page(file, name, cluster.segment_size)
    end = segment.segment_number(name, cluster.segment_size) * cluster.segment_size + max(0, offset)
    is_standby = data_directory.is_still_recovering(cluster)
    return data_directory.Position(segment.timeline(name), end + (0 if is_standby else len(page.rstrip(b"\0"))))


def read_position(data: str) -> Dict[str, Any]:
    """Return what pg_control and pg_wal say of a data directory, or zeros."""
    from walbasin.local import data_directory

    found = {"system_identifier": 0, "timeline": 0, "lsn": 0, "history": []}
    cluster = data_directory.read(data)
    if cluster is not None:
        with contextlib.suppress(OSError):
            position = max(*data_directory.read_positions(cluster), read_end(cluster))
            histories = dict(data_directory.read_histories(cluster))
            found.update(
                system_identifier=cluster.system_identifier,
                timeline=position.timeline,
                lsn=position.lsn,
                history=histories.get(position.timeline, []),
            )
    return found


def find_tablespaces(pattern: str) -> Set[str]:
    """Return the folders of the tablespaces of data directories."""
    return {os.path.realpath(link) for link in glob.glob(os.path.join(pattern, "pg_tblspc", "*"))}


def read_claimed(container: str) -> Set[str]:
    """Return the folders of tablespaces that an interrupted run has begun to fill."""
    with contextlib.suppress(OSError), open(os.path.join(container, "tablespaces"), encoding="utf-8") as file:
        return set(file.read().splitlines())
    return set()


def find_rooms(
    data: str, copied: Dict[str, int], begun: Dict[str, int], old: Dict[str, int], discards: bool
) -> List[Dict[str, Any]]:
    """Return the filesystems to which the copy comes.

    Of each: one of its folders, the bytes needed there, those that are free for it, and
    those that the old data directory takes.
    """
    rooms: Dict[int, Dict[str, Any]] = {}
    for folder, size in copied.items():
        start = {"folder": folder, "needed": 0, "free": free_bytes(folder), "old": 0}
        room = rooms.setdefault(os.stat(nearest(folder)).st_dev, start)
        room["needed"] += size * 105 // 100 + (WAL_ROOM if folder == data else 0)
        room["free"] += begun.get(folder, 0) + (old.get(folder, 0) if discards else 0)
        room["old"] += 0 if discards else old.get(folder, 0)
    return [
        {
            **room,
            "is_enough": room["free"] >= room["needed"],
            "is_enough_without_old": room["free"] + room["old"] >= room["needed"],
        }
        for room in rooms.values()
    ]


def lies_within(path: str, others: Iterable[str]) -> bool:
    """Tell whether a folder is in one of the others, or has one in it."""
    return any(path != each and os.path.commonpath([path, each]) in (path, each) for each in others)


def read_placed(data: str) -> str:
    """Return the backup that an interrupted run has put in place here, or "".

    PostgreSQL takes backup_label away when it starts: so this has never been used.
    """
    with contextlib.suppress(OSError):
        with open(os.path.join(data, "walbasin.placed"), encoding="utf-8") as file:
            name = file.read().strip()
        return name if os.path.exists(os.path.join(data, "backup_label")) else ""
    return ""


def can_use(folder: str) -> bool:
    """Tell whether PostgreSQL's user can read and write in a folder, or make it."""
    return os.access(nearest(folder), os.R_OK | os.W_OK | os.X_OK)


def list_names(folder: str) -> List[str]:
    """Return what is in a folder, but for the file with which Barman tries it."""
    with contextlib.suppress(OSError):
        return [name for name in os.listdir(folder) if name != ".barman_write_check"]
    return []


def find_clusters_within(folder: str) -> List[str]:
    """Return the data directories in a folder, as there are in /var/lib/postgresql."""
    found = (glob.glob(os.path.join(glob.escape(folder), each, "global", "pg_control")) for each in ("*", "*/*"))
    return sorted(path.rpartition("/global/")[0] for paths in found for path in paths)


def examine(asked: Dict[str, Any]) -> Dict[str, Any]:
    """Return all that was found."""
    data, container, copied = asked["data"], asked["container"], asked["copied"]
    parent, pg_wal = os.path.dirname(data), os.path.join(data, "pg_wal")
    new = os.path.join(container, "new")
    kept = find_tablespaces(os.path.join(glob.escape(container), "old-*"))
    current = find_tablespaces(glob.escape(data)) - kept
    claimed = read_claimed(container) - kept - current
    tablespaces = [each for each in copied if each != data]
    # Where nothing is copied, nobody asks for sizes, which take long.
    old = {each: size_of(each) for each in copied if each == data or each in current}
    begun = {each: size_of(new if each == data else each) for each in copied if each == data or each in claimed}
    return {
        "is_there": os.path.lexists(data),
        "is_link": os.path.realpath(data) != data or os.path.islink(pg_wal) or os.path.ismount(pg_wal),
        "is_mount": os.path.isdir(data) and os.stat(data).st_dev != os.stat(parent).st_dev,
        "is_empty": os.path.isdir(data) and not list_names(data),
        "is_readable": not os.path.isdir(data) or can_use(data),
        "clusters_within": find_clusters_within(data),
        "has_version": os.path.isfile(os.path.join(data, "PG_VERSION")),
        "size": sum(old.values()),
        "is_begun": os.path.isdir(new),
        "placed": read_placed(data),
        "rooms": find_rooms(data, copied, begun, old, asked["discards"]),
        "can_write": can_use(parent),
        "tablespaces_elsewhere": sorted(current - set(copied)),
        "has_conninfo": any(
            map(CONNINFO.search, texts([data, os.path.join(container, "settings"), *asked["settings"]]))
        ),
        "tablespaces": {
            path: {
                "is_used": bool(list_names(path)),
                "is_foreign": not all(name.startswith(f"PG_{asked['version']}_") for name in list_names(path)),
                "is_current": path in current,
                "is_kept": path in kept,
                "is_claimed": path in claimed,
                "is_real": os.path.realpath(path) == path,
                "is_apart": not lies_within(path, [container, *copied]),
                "can_write": can_use(path),
            }
            for path in tablespaces
        },
        **read_position(data),
    }


if __name__ == "__main__":
    json.dump(examine(json.loads(sys.argv[1])), sys.stdout)
