"""Read what a data directory says of its PostgreSQL cluster, and of its recovery.

What a call needs to know is read once, and handed on as a value (DataDirectory). Only
what must be fresh is asked again: see current_mode, is_still_recovering,
current_postmaster_id, is_same_cluster and promotion_files.
"""

import contextlib
import itertools
import os
import re
import shlex
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from walbasin import policy
from walbasin.local import processes
from walbasin.wal import segment

# How deep configuration files include each other, in PostgreSQL (conffiles.h).
INCLUDE_DEPTH = 10
# Bytes of pg_control before the last checkpoint's copy and before minRecoveryPoint:
# in PostgreSQL 10, in 11, and in 12 to 18.
CONTROL_OFFSETS = {10: (48, 136), 11: (40, 128), 12: (40, 136)}
# Bytes of pg_control that say something (PG_CONTROL_MAX_SAFE_SIZE). The number by which
# PostgreSQL knows its own format of floating point (FLOATFORMAT_VALUE) is in there, and
# before 32-bit numbers: the size of a block, of a relation's file, of a block of WAL,
# and of a segment. Where it is depends on the version.
CONTROL_LENGTH = 512
FLOAT_FORMAT = struct.pack("=d", 1234567.0)
SIZES = struct.Struct("=8xIIII")


class DataDirectory(NamedTuple):
    """Hold what a data directory was like when it was read.

    system_identifier: from global/pg_control. device, inode: they tell copies of a
    cluster apart. mode: policy.STANDBY or policy.RECOVERY. postmaster_id: PID.START of
    the server that runs on it (START in seconds since 1970), or None. segment_size:
    bytes. is_size_known: False where that is no more than the usual one.
    """

    path: str
    major_version: int
    system_identifier: int
    device: int
    inode: int
    mode: str
    postmaster_id: Optional[str]
    segment_size: int
    is_size_known: bool = True

    @property
    def known_segment_size(self) -> Optional[int]:
        """Return the bytes of a segment, or None where they are not known."""
        return self.segment_size if self.is_size_known else None

    def file(self, name: str) -> str:
        """Return the path of a file in the data directory."""
        return os.path.join(self.path, name)


def find(destination: str) -> Optional[DataDirectory]:
    """Return the data directory that a WAL destination belongs to, or None.

    PostgreSQL gives a path relative to PGDATA, its working directory. pg_rewind gives
    one below the target's PGDATA, and may have been started anywhere. Take the parent
    from the path as it is written: pg_wal can be a link. A wrapper may give another
    path and folder, but it runs below a process of PostgreSQL's, which is in PGDATA.
    """
    pg_wal = os.path.dirname(os.path.abspath(destination))
    return read(os.path.dirname(pg_wal)) or read_here()


def read_here() -> Optional[DataDirectory]:
    """Return the data directory that we or a process above us work in, or None."""
    folders = itertools.chain([os.getcwd()], (f"/proc/{process}/cwd" for process in _ancestors()))
    return next(filter(None, map(read, folders)), None)


def _ancestors() -> Iterator[int]:
    """Yield the processes above ours, up to process 1."""
    process = os.getppid()
    while process > 1:
        yield process
        process = processes.parent_of(process)


def read(path: str) -> Optional[DataDirectory]:
    """Return what a folder says, or None where there is no cluster that we can read."""
    identity = _read_identity(path)
    if identity is None:
        return None
    path, major_version, system_identifier, device, inode = identity
    segment_size = _read_segment_size(path)
    return DataDirectory(
        path=path,
        major_version=major_version,
        system_identifier=system_identifier,
        device=device,
        inode=inode,
        mode=_read_mode(path, major_version),
        postmaster_id=_read_postmaster_id(path),
        segment_size=segment_size or segment.DEFAULT_SIZE,
        is_size_known=segment_size is not None,
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


def is_starting(cluster: DataDirectory) -> bool:
    """Return whether a server starts there, and has let nobody in yet.

    Source: miscadmin.h, LOCK_FILE_LINE_PM_STATUS.
    """
    try:
        with open(cluster.file("postmaster.pid"), encoding="ascii", errors="replace") as file:
            return [line.strip() for line in file][7:8] == ["starting"]
    except OSError:
        return False


def is_same_cluster(cluster: DataDirectory) -> bool:
    """Return whether the same cluster still lies there."""
    return _read_identity(cluster.path) == cluster[:5]


def parse_settings(text: str) -> Dict[str, str]:
    """Return name -> value of a file in postgresql.conf's grammar (guc-file.l).

    The last line wins.

    >>> parse_settings("standby_mode = on\\ntrigger_file '/tmp/it''s'  # a comment")
    {'standby_mode': 'on', 'trigger_file': "/tmp/it's"}
    """
    return dict(_parse_lines(text))


def _parse_lines(text: str) -> Iterator[Tuple[str, str]]:
    for line in text.splitlines():
        match = re.match(r"\s*([A-Za-z_][\w.]*)\s*(?:=\s*|\s)('(?:[^'\\]|''|\\.)*'|[^\s#'=]+)", line)
        if match:
            name, value = match.groups()
            if value.startswith("'"):
                value = re.sub(r"\\(.)|''", lambda m: m.group(1) or "'", value[1:-1])
            yield name.lower(), value


def _read_settings(path: str, depth: int = INCLUDE_DEPTH) -> Dict[str, str]:
    """Return the settings of a file, and of those that it includes."""
    found: Dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return found
    for name, value in _parse_lines(text):
        target = os.path.join(os.path.dirname(path), value)
        if name in ("include", "include_if_exists"):
            files = [target]
        elif name == "include_dir":
            names = sorted(os.listdir(target)) if os.path.isdir(target) else []
            files = [os.path.join(target, name) for name in names if name.endswith(".conf")]
        else:
            found[name] = value
            continue
        for each in files if depth else []:
            found.update(_read_settings(each, depth - 1))
    return found


def read_settings(cluster: DataDirectory) -> Dict[str, str]:
    """Return the settings that the server was started with, as far as files tell."""
    on_command_line = _read_postmaster_options(cluster)
    main = on_command_line.get("config_file", "postgresql.conf")
    files = [cluster.file(name) for name in (main, "postgresql.auto.conf", "recovery.conf")]
    return {name: value for each in [*map(_read_settings, files), on_command_line] for name, value in each.items()}


def _read_postmaster_options(cluster: DataDirectory) -> Dict[str, str]:
    """Return the settings on the server's command line, which is in postmaster.opts.

    They are given as -c NAME=VALUE or --NAME=VALUE.
    """
    try:
        with open(cluster.file("postmaster.opts"), encoding="utf-8", errors="replace") as file:
            words = shlex.split(file.read())
    except (OSError, ValueError):
        return {}
    given = [word for option, word in zip(words, words[1:]) if option == "-c"]
    given += [word[2:] for word in words if word.startswith("--") and "=" in word]
    pairs = (word.partition("=") for word in given)
    return {name.replace("-", "_").lower(): value for name, _, value in pairs}


def target_timeline(cluster: DataDirectory, own: int) -> Optional[int]:
    """Return the timeline that recovery goes to from `own`; None for the newest."""
    default = "latest" if cluster.major_version >= 12 else "current"
    value = read_settings(cluster).get("recovery_target_timeline") or default
    if value == "latest":
        return None
    return int(value) if value.isascii() and value.isdigit() else own


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


def start_time(postmaster_id: str) -> int:
    """Return when a server was started, in seconds since 1970; 0 if it does not say."""
    start = postmaster_id.partition(".")[2]
    return int(start) if start.isascii() and start.isdigit() else 0


def find_startup_process(postmaster_id: Optional[str]) -> Optional[int]:
    """Return the startup process for which our shell runs, or None.

    It is the child of the postmaster that is an ancestor of ours.
    """
    processes = list(_ancestors())
    for process, parent in zip(processes, processes[1:]):
        if postmaster_id is not None and parent == process_id(postmaster_id):
            return process
    return None


def promotion_files(cluster: DataDirectory) -> List[str]:
    """Return the files whose appearance asks for promotion.

    They are pg_ctl's own, and a configured trigger file.
    """
    configured = read_settings(cluster)
    triggers = [configured.get("trigger_file", ""), configured.get("promote_trigger_file", "")]
    return [cluster.file(name) for name in ["promote", *triggers] if name]


def _read_segment_size(path: str) -> Optional[int]:
    """Return the bytes of a segment, or None where nothing tells.

    pg_control has them. What is in pg_wal is a substitute.
    """
    with contextlib.suppress(OSError), open(os.path.join(path, "global", "pg_control"), "rb") as control:
        size = parse_segment_size(control.read(CONTROL_LENGTH))
        if size is not None:
            return size
    for name in filter(segment.is_segment_name, _names_in_pg_wal(path)):
        with contextlib.suppress(OSError):  # removed in this moment
            size = os.path.getsize(os.path.join(path, "pg_wal", name))
            if segment.is_segment_size(size):
                return size
    return None


def parse_segment_size(control: bytes) -> Optional[int]:
    """Return the bytes of a segment, as the beginning of pg_control says, or None."""
    at = control.find(FLOAT_FORMAT)
    if at < 0 or len(control) < at + SIZES.size:
        return None
    *_, size = SIZES.unpack_from(control, at)
    return size if segment.is_segment_size(size) else None


class Position(NamedTuple):
    """Hold a point in WAL: a timeline, and an LSN on it."""

    timeline: int
    lsn: int


def read_positions(cluster: DataDirectory) -> Tuple[Position, Position]:
    """Return where recovery begins, and how far it must come before queries are let in.

    The second is what a standby has replayed at least; 0 on a server that was none.
    Source: pg_control.h, ControlFileData. Raises OSError.
    """
    checkpoint, minimum_recovery = CONTROL_OFFSETS[max(10, min(cluster.major_version, 12))]
    with open(cluster.file("global/pg_control"), "rb") as control:
        content = control.read(minimum_recovery + struct.calcsize("=QI"))
    try:
        redo, timeline = struct.unpack_from("=QI", content, checkpoint)
        minimum, minimum_timeline = struct.unpack_from("=QI", content, minimum_recovery)
    except struct.error:
        raise OSError(None, "too short", control.name) from None
    return Position(timeline, redo), Position(minimum_timeline, minimum)


def checkpoint_segment(cluster: DataDirectory) -> str:
    """Return the segment where recovery of a data directory begins. Raises OSError."""
    position, _ = read_positions(cluster)
    return segment.segment_name(position.timeline, position.lsn // cluster.segment_size, cluster.segment_size)


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
            length = os.path.getsize(path)
            segment.verify_segment(name, header, length, cluster.system_identifier, cluster.known_segment_size)
            yield name


def read_histories(cluster: DataDirectory) -> Iterator[Tuple[int, List[Tuple[int, int]]]]:
    """Yield the timelines with a history file in pg_wal, and its parse_history."""
    for name in filter(segment.is_history_name, _names_in_pg_wal(cluster.path)):
        with contextlib.suppress(OSError, segment.InvalidWal), open(cluster.file(f"pg_wal/{name}"), "rb") as file:
            yield segment.timeline(name), segment.parse_history(name, file.read(segment.HISTORY_LIMIT))


def _names_in_pg_wal(path: str) -> List[str]:
    try:
        return os.listdir(os.path.join(path, "pg_wal"))
    except OSError:
        return []
