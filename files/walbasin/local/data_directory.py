"""Read what a data directory says of its PostgreSQL cluster, and of its recovery.

What a call needs to know is read once, and handed on as a value (DataDirectory). Only
what must be fresh is asked again: see current_mode, is_still_recovering,
current_postmaster_id, is_same_cluster and promotion_files.
"""

import contextlib
import itertools
import os
import re
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from walbasin import policy
from walbasin.wal import segment


class DataDirectory(NamedTuple):
    """Hold what a data directory was like when it was read.

    system_identifier: from global/pg_control. device, inode: they tell copies of a
    cluster apart. mode: policy.STANDBY or policy.RECOVERY. postmaster_id: PID.START of
    the server that runs on it (START in seconds since 1970), or None. segment_size:
    bytes.
    """

    path: str
    major_version: int
    system_identifier: int
    device: int
    inode: int
    mode: str
    postmaster_id: Optional[str]
    segment_size: int

    def file(self, name: str) -> str:
        """Return the path of a file in the data directory."""
        return os.path.join(self.path, name)


def find(destination: str) -> Optional[DataDirectory]:
    """Return the data directory that a WAL destination belongs to, or None.

    PostgreSQL gives a path relative to PGDATA, its working directory. pg_rewind gives
    one below the target's PGDATA, and may have been started anywhere. Take the parent
    from the path as it is written: pg_wal can be a link.
    """
    pg_wal = os.path.dirname(os.path.abspath(destination))
    return read(os.path.dirname(pg_wal)) or read(os.getcwd())


def read(path: str) -> Optional[DataDirectory]:
    """Return what a folder says, or None where there is no cluster that we can read."""
    identity = _read_identity(path)
    if identity is None:
        return None
    path, major_version, system_identifier, device, inode = identity
    return DataDirectory(
        path=path,
        major_version=major_version,
        system_identifier=system_identifier,
        device=device,
        inode=inode,
        mode=_read_mode(path, major_version),
        postmaster_id=_read_postmaster_id(path),
        segment_size=_read_segment_size(path),
    )


def _read_identity(path: str) -> Optional[Tuple[str, int, int, int, int]]:
    """Return real path, major version, system identifier, device and inode, or None."""
    try:
        with open(os.path.join(path, "global", "pg_control"), "rb") as control:
            (system_identifier,) = struct.unpack("=Q", control.read(8))
        with open(os.path.join(path, "PG_VERSION"), encoding="ascii") as version:
            major_version = int(version.read().split(".")[0])
        status = os.stat(path)
    except (OSError, ValueError, struct.error):
        return None
    return os.path.realpath(path), major_version, system_identifier, status.st_dev, status.st_ino


def is_same_cluster(cluster: DataDirectory) -> bool:
    """Return whether the same cluster still lies there."""
    return _read_identity(cluster.path) == cluster[:5]


def parse_settings(text: str) -> Dict[str, str]:
    """Return name -> value of a file in postgresql.conf's grammar (guc-file.l).

    The last line wins.

    >>> parse_settings("standby_mode = on\\ntrigger_file '/tmp/it''s'  # a comment")
    {'standby_mode': 'on', 'trigger_file': "/tmp/it's"}
    """
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*([A-Za-z_][\w.]*)\s*(?:=\s*|\s)('(?:[^'\\]|''|\\.)*'|[^\s#'=]+)", line)
        if match:
            name, value = match.groups()
            if value.startswith("'"):
                value = re.sub(r"\\(.)|''", lambda m: m.group(1) or "'", value[1:-1])
            found[name.lower()] = value
    return found


def _read_settings(path: str) -> Dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_settings(file.read())
    except OSError:
        return {}


def _is_on(value: str) -> bool:
    """Return whether PostgreSQL reads a value as true."""
    return value not in ("", "o") and any(word.startswith(value.lower()) for word in ("on", "true", "yes", "1"))


def current_mode(cluster: DataDirectory) -> str:
    """Return the recovery mode at this moment."""
    return _read_mode(cluster.path, cluster.major_version)


def _read_mode(path: str, major_version: int) -> str:
    """Return policy.RECOVERY for a point-in-time recovery, else policy.STANDBY."""
    if major_version >= 12:
        is_standby = os.path.exists(os.path.join(path, "standby.signal"))
        is_recovery = os.path.exists(os.path.join(path, "recovery.signal"))
    else:
        recovery_conf = os.path.join(path, "recovery.conf")
        is_standby = _is_on(_read_settings(recovery_conf).get("standby_mode", ""))
        is_recovery = os.path.exists(recovery_conf)
    return policy.RECOVERY if is_recovery and not is_standby else policy.STANDBY


def is_still_recovering(cluster: DataDirectory) -> bool:
    """Return False once recovery has ended.

    PostgreSQL then removes its signal file (or renames recovery.conf).
    """
    names = ("standby.signal", "recovery.signal") if cluster.major_version >= 12 else ("recovery.conf",)
    return any(os.path.exists(cluster.file(name)) for name in names)


def current_postmaster_id(cluster: DataDirectory) -> Optional[str]:
    """Return PID.START of the server that runs at this moment, or None."""
    return _read_postmaster_id(cluster.path)


def _read_postmaster_id(path: str) -> Optional[str]:
    try:
        with open(os.path.join(path, "postmaster.pid"), encoding="ascii", errors="replace") as file:
            pid, _, start = (line.strip() for line in itertools.islice(file, 3))
    except (OSError, ValueError):
        return None
    return f"{pid}.{start}" if os.path.isdir(f"/proc/{pid}") else None


def process_id(postmaster_id: str) -> int:
    """Return the process id in a postmaster_id."""
    return int(postmaster_id.split(".", maxsplit=1)[0])


def find_startup_process(postmaster_id: Optional[str]) -> Optional[int]:
    """Return the startup process for which our shell runs, or None.

    It is the child of the postmaster that is an ancestor of ours.
    """
    process = _parent_of(os.getppid())
    while postmaster_id is not None and process > 1:
        parent = _parent_of(process)
        if parent == process_id(postmaster_id):
            return process
        process = parent
    return None


def _parent_of(process: int) -> int:
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])  # proc(5)
    except OSError:
        return 0


def promotion_files(cluster: DataDirectory) -> List[str]:
    """Return the files whose appearance asks for promotion.

    They are pg_ctl's own, and a configured trigger file.
    """
    configured = {
        **_read_settings(cluster.file("postgresql.auto.conf")),
        **_read_settings(cluster.file("recovery.conf")),
    }
    triggers = [configured.get("trigger_file", ""), configured.get("promote_trigger_file", "")]
    return [cluster.file(name) for name in ["promote", *triggers] if name]


def _read_segment_size(path: str) -> int:
    """Return the bytes of a segment, told by any that is in pg_wal.

    pg_control has them too, at an offset that changes by version.
    """
    for name in filter(segment.is_segment_name, _names_in_pg_wal(path)):
        with contextlib.suppress(OSError):  # removed in this moment
            return os.path.getsize(os.path.join(path, "pg_wal", name))
    return segment.DEFAULT_SIZE


def newest_segments(cluster: DataDirectory) -> Iterator[str]:
    """Yield the segments that were written to pg_wal, the newest first.

    Leave out those that are kept for reuse: they have names of the future, and the
    contents of the past.
    """
    names = sorted(filter(segment.is_segment_name, _names_in_pg_wal(cluster.path)), reverse=True)
    for name in names:
        path = cluster.file(f"pg_wal/{name}")
        with contextlib.suppress(OSError, segment.InvalidWal), open(path, "rb") as file:
            header = file.read(segment.LONG_HEADER.size)
            segment.verify_segment(name, header, os.path.getsize(path), cluster.system_identifier)
            yield name


def read_histories(cluster: DataDirectory) -> Iterator[Tuple[str, List[Tuple[int, int]]]]:
    """Yield the history files in pg_wal, and their segment.parse_history."""
    for name in filter(segment.is_history_name, _names_in_pg_wal(cluster.path)):
        with contextlib.suppress(OSError, segment.InvalidWal), open(cluster.file(f"pg_wal/{name}"), "rb") as file:
            yield name, segment.parse_history(name, file.read(segment.HISTORY_LIMIT))


def _names_in_pg_wal(path: str) -> List[str]:
    try:
        return os.listdir(os.path.join(path, "pg_wal"))
    except OSError:
        return []
