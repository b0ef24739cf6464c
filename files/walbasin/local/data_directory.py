"""The PostgreSQL cluster that WAL is restored into: who it is, and how it is being recovered."""

import contextlib
import itertools
import os
import re
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from walbasin import policy
from walbasin.wal import segment


class Cluster(NamedTuple):
    """A data directory. system_identifier comes from global/pg_control, device and inode tell copies of it apart."""

    data_directory: str
    major_version: int
    system_identifier: int
    device: int
    inode: int

    def path(self, name: str) -> str:
        return os.path.join(self.data_directory, name)


def read(data_directory: str) -> Optional[Cluster]:
    """The cluster in a folder, or None where there is none that we can read."""
    try:
        with open(os.path.join(data_directory, "global", "pg_control"), "rb") as control:
            (system_identifier,) = struct.unpack("=Q", control.read(8))
        with open(os.path.join(data_directory, "PG_VERSION"), encoding="ascii") as version:
            major_version = int(version.read().split(".")[0])
        status = os.stat(data_directory)
    except (OSError, ValueError, struct.error):
        return None
    return Cluster(os.path.realpath(data_directory), major_version, system_identifier, status.st_dev, status.st_ino)


def find(destination: str) -> Optional[Cluster]:
    """The cluster that owns a WAL destination.

    PostgreSQL gives a path relative to PGDATA, its working directory. pg_rewind gives one below the target's PGDATA and
    may have been started anywhere. pg_wal can be a link, so the parent is taken from the path as it is written.
    """
    pg_wal = os.path.dirname(os.path.abspath(destination))
    return read(os.path.dirname(pg_wal)) or read(os.getcwd())


def settings(text: str) -> Dict[str, str]:
    """name -> value of a configuration file in postgresql.conf's grammar (guc-file.l); the last line wins."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*([A-Za-z_][\w.]*)\s*(?:=\s*|\s)('(?:[^'\\]|''|\\.)*'|[^\s#'=]+)", line)
        if match:
            name, value = match.groups()
            if value.startswith("'"):
                value = re.sub(r"\\(.)|''", lambda m: m.group(1) or "'", value[1:-1])
            found[name.lower()] = value
    return found


def _settings_of(path: str) -> Dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return settings(file.read())
    except OSError:
        return {}


def _is_on(value: str) -> bool:
    return value not in ("", "o") and any(word.startswith(value.lower()) for word in ("on", "true", "yes", "1"))


def recovery_mode(cluster: Cluster) -> str:
    """policy.RECOVERY for a point-in-time recovery, policy.STANDBY for everything else."""
    if cluster.major_version >= 12:
        is_standby = os.path.exists(cluster.path("standby.signal"))
        is_recovery = os.path.exists(cluster.path("recovery.signal"))
    else:
        is_standby = _is_on(_settings_of(cluster.path("recovery.conf")).get("standby_mode", ""))
        is_recovery = os.path.exists(cluster.path("recovery.conf"))
    return policy.RECOVERY if is_recovery and not is_standby else policy.STANDBY


def is_recovering(cluster: Cluster) -> bool:
    """False once recovery has ended, when PostgreSQL removes its signal file (or renames recovery.conf)."""
    names = ("standby.signal", "recovery.signal") if cluster.major_version >= 12 else ("recovery.conf",)
    return any(os.path.exists(cluster.path(name)) for name in names)


def postmaster(cluster: Cluster) -> Optional[str]:
    """PID.START of the server that runs in the data directory (start: seconds since 1970), or None."""
    try:
        with open(cluster.path("postmaster.pid"), encoding="ascii", errors="replace") as file:
            pid, _, start = (line.strip() for line in itertools.islice(file, 3))
    except (OSError, ValueError):
        return None
    return f"{pid}.{start}" if os.path.isdir(f"/proc/{pid}") else None


def startup_process(server: Optional[str]) -> Optional[int]:
    """The process of `server` (see postmaster) for which our shell runs; None when it is somebody else's."""
    process = _parent(os.getppid())
    while server is not None and process > 1:
        parent = _parent(process)
        if str(parent) == server.split(".")[0]:
            return process
        process = parent
    return None


def _parent(process: int) -> int:
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])  # proc(5)
    except OSError:
        return 0


def promotion_files(cluster: Cluster) -> List[str]:
    """The files whose appearance asks for promotion: pg_ctl's own, and a configured trigger file."""
    configured = {**_settings_of(cluster.path("postgresql.auto.conf")), **_settings_of(cluster.path("recovery.conf"))}
    triggers = [configured.get("trigger_file", ""), configured.get("promote_trigger_file", "")]
    return [cluster.path(name) for name in ["promote", *triggers] if name]


def segment_size(cluster: Cluster) -> int:
    """Bytes of a segment, told by what is in pg_wal (pg_control keeps it at an offset that changes by version)."""
    for name in _segment_names(cluster):
        with contextlib.suppress(OSError):  # removed in this moment
            return os.path.getsize(_in_pg_wal(cluster, name))
    return segment.DEFAULT_SIZE


def newest_segments(cluster: Cluster) -> Iterator[str]:
    """The segments that were written to pg_wal, the newest first.

    Those that are kept for reuse have names of the future, and the contents of the past.
    """
    for name in _segment_names(cluster):
        path = _in_pg_wal(cluster, name)
        with contextlib.suppress(OSError, segment.Invalid), open(path, "rb") as file:
            header = file.read(segment.LONG_HEADER.size)
            segment.verify_segment(name, header, os.path.getsize(path), cluster.system_identifier)
            yield name


def histories(cluster: Cluster) -> Iterator[Tuple[str, List[Tuple[int, int]]]]:
    """The history files in pg_wal and what they say (see segment.history)."""
    for name in filter(segment.is_history, _names_in_pg_wal(cluster)):
        with contextlib.suppress(OSError, segment.Invalid), open(_in_pg_wal(cluster, name), "rb") as file:
            yield name, segment.history(name, file.read(segment.HISTORY_LIMIT))


def _segment_names(cluster: Cluster) -> List[str]:
    return sorted(filter(segment.is_segment, _names_in_pg_wal(cluster)), reverse=True)


def _names_in_pg_wal(cluster: Cluster) -> List[str]:
    try:
        return os.listdir(cluster.path("pg_wal"))
    except OSError:
        return []


def _in_pg_wal(cluster: Cluster, name: str) -> str:
    return os.path.join(cluster.data_directory, "pg_wal", name)
