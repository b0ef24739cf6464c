"""Tell what Barman has with which a standby can be made anew, and print it as JSON.

Runs as Barman's user on its host (run_with_package.py), and changes nothing there. Its
argument has, in JSON:

server, config: as Barman knows them. backup: its name, or empty for the newest one.
timeline, lsn: where the standby is, in bytes; 0 where it has no data. history: that of
its timeline, as it knows it: pairs of a timeline and the LSN at which it was left.

The output has either "error", a sentence, or what Examination holds.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

# Seconds for one command of Barman's. show-servers connects to the primary.
BARMAN_LIMIT = 120
# Barman 3.12 calls it restore; before, recover.
RESTORE_SINCE = (3, 12)
# It came with 3.16, and did not work before 3.17.
DELTA_SINCE = (3, 17)
# From then on a folder that has files is refused without a delta restore.
EMPTY_SINCE = (3, 15)

History = List[Tuple[int, int]]
# An LSN behind all others.
ENDLESS = 1 << 64


class CannotTell(Exception):
    """Say why nothing can be restored, or why that cannot be known."""


class Backup(NamedTuple):
    """Hold what Barman says of a backup, and what pg_control in it says.

    size: in bytes. rate: bytes a second, at which Barman has taken it; 0: not known.
    finished: when it was ended, in seconds since 1970. tablespaces: name ->
    folder on the primary. tablespace_sizes: name -> bytes, which size counts, too.
    """

    name: str
    size: int
    rate: int
    begin_wal: str
    finished: int
    version: int
    system_identifier: int
    segment_size: int
    tablespaces: Dict[str, str]
    tablespace_sizes: Dict[str, int]


class Primary(NamedTuple):
    """Hold where Barman's server is, as it said itself a moment ago."""

    timeline: int
    lsn: int


class Wal(NamedTuple):
    """Hold what the archive has from the backup on.

    missing, later: a segment that is not there, and one behind it that is. abandoned:
    the newest timeline of the archive, where the primary is on an older one. behind:
    bytes that the primary has written behind the archive's end, as far as it is known.
    """

    newest: str
    bytes: int
    missing: str = ""
    later: str = ""
    abandoned: int = 0
    behind: int = 0


class Divergence(NamedTuple):
    """Say where a standby has left the primary's history: behind it, it is alone.

    at: an LSN, 0 where it has not. is_ahead: there the primary has ended, and has lost
    what follows. is_known: the archive has the history of the primary's timeline.
    """

    at: int = 0
    is_ahead: bool = False
    is_known: bool = True


class Examination(NamedTuple):
    """Hold all that was found."""

    backup: Backup
    wal: Wal
    primary: Optional[Primary]
    verb: str
    can_delta: bool
    needs_empty: bool
    divergence: Divergence


def parse_version(text: str) -> Tuple[int, int]:
    """Return Barman's version.

    >>> parse_version("3.4.0 Barman by EnterpriseDB (www.enterprisedb.com)")
    (3, 4)
    """
    found = re.search(r"\b(\d+)\.(\d+)", text)
    if not found:
        raise CannotTell(f"Barman does not say its version, but {text[:80]!r}")
    return int(found[1]), int(found[2])


def choose(backups: List[Dict[str, Any]], wanted: str) -> str:
    """Return the name of the backup that is wanted, or of the newest.

    Raises CannotTell.
    """
    known = {str(each.get("backup_id")): each.get("status") for each in backups}
    done = [name for name, status in known.items() if status == "DONE" and re.fullmatch(r"[A-Za-z0-9_.-]+", name)]
    if wanted and wanted not in known:
        raise CannotTell(f"it has no backup {wanted}, only {', '.join(done) or 'none that is DONE'}")
    if wanted and wanted not in done:
        raise CannotTell(f"its backup {wanted} is {known[wanted]}, not DONE")
    if not done:
        raise CannotTell("it has no backup that is DONE")
    return wanted or max(done)


def parse_size(shown: Dict[str, Any]) -> int:
    """Return the bytes of a backup's files, as each version of Barman calls them."""
    base = shown["base_backup_information"]
    found = shown.get("cluster_size_bytes") or base.get("disk_usage_bytes") or base.get("backup_size_bytes")
    return int(found or 0)


def parse_new_size(shown: Dict[str, Any]) -> int:
    """Return the bytes that Barman did not have already (reuse_backup)."""
    base = shown["base_backup_information"]
    return int(base.get("incremental_size_bytes") or base.get("backup_size_bytes") or parse_size(shown))


def parse_primary(text: str) -> Optional[Primary]:
    """Return where the primary is, from `barman show-server`.

    None where it does not answer, or is itself in recovery.
    """
    values = dict(re.findall(r"^\s+(current_lsn|current_xlog|is_in_recovery): (\S+)$", text, re.MULTILINE))
    lsn = re.fullmatch(r"([0-9A-F]+)/([0-9A-F]+)", values.get("current_lsn", ""))
    if not lsn or values.get("is_in_recovery") != "False":
        return None
    if not re.fullmatch("[0-9A-F]{24}", values.get("current_xlog", "")):
        return None
    return Primary(int(values["current_xlog"][:8], 16), (int(lsn[1], 16) << 32) + int(lsn[2], 16))


def can_delta(version: Tuple[int, int], shown: str) -> bool:
    """Tell whether Barman can use what the standby has already.

    shown: from `barman show-server`.
    """
    return version >= DELTA_SINCE and not re.search(r"^\s+staging_location: remote$", shown, re.MULTILINE)


def data_folder(listed: str, name: str) -> str:
    """Return the folder of a backup's files, from `barman list-files`.

    Raises CannotTell for backups that rsync cannot copy as they are.
    """
    for line in listed.splitlines():
        if line.startswith("/") and line.endswith(f"/{name}/data/PG_VERSION"):
            return os.path.dirname(line)
    raise CannotTell(
        f"its backup {name} is compressed, encrypted, or a snapshot, which this playbook does not restore. "
        "Name a plain one (rebuild_backup), or run barman restore by hand"
    )


def size_of(path: str) -> int:
    """Return the bytes of the files in a folder, whatever they take on its disk."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


class Barman:
    """Ask Barman about one server."""

    def __init__(self, server: str, config: str) -> None:
        self._server = server
        self._command = ["barman", *(["-c", config] if config else [])]

    def run(self, *words: str) -> str:
        """Return what a command prints. Raises CannotTell."""
        command = [*self._command, *words]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BARMAN_LIMIT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotTell(f"{' '.join(command)}: {error}") from error
        stdout, stderr = (output.decode("utf-8", "replace") for output in (ran.stdout, ran.stderr))
        if ran.returncode != 0:
            last = (stderr.strip() or stdout.strip() or f"it ended with {ran.returncode}").splitlines()[-1]
            raise CannotTell(f"{' '.join(command)}: {last[:300]}")
        return stdout

    def ask(self, *words: str) -> Any:
        """Return what a command says of the server, from JSON. Raises CannotTell."""
        output = self.run("-f", "json", *words)
        try:
            return json.loads(output)[self._server]
        except (ValueError, KeyError, RecursionError, TypeError) as error:
            raise CannotTell(f"barman {' '.join(words)} is not understood: {output[:200]!r}") from error

    def version(self) -> Tuple[int, int]:
        """Return Barman's version. Raises CannotTell."""
        return parse_version(self.run("--version"))

    def find_backup(self, wanted: str) -> Backup:
        """Return the backup to be restored. Raises CannotTell."""
        try:
            return self._read_backup(wanted)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise CannotTell(f"what it says of its backups is not understood: {error!r}"[:300]) from error

    def _read_backup(self, wanted: str) -> Backup:
        from walbasin.local import data_directory

        name = choose(self.ask("list-backup", self._server), wanted)
        shown = self.ask("show-backup", self._server, name)
        base = shown["base_backup_information"]
        if shown.get("backup_type") == "incremental" or base.get("compression") or base.get("encryption"):
            data_folder("", name)
        size = parse_size(shown)
        data = data_folder(self.run("list-files", "--target", "data", self._server, name), name)
        control = data_directory.read(data)
        if control is None:
            raise CannotTell(f"its backup {name} has no pg_control that can be read")
        return Backup(
            name=name,
            size=size,
            # It is of what was not there already: with few new files it says nothing.
            rate=int(base.get("throughput_bytes") or 0) if 2 * parse_new_size(shown) > size else 0,
            begin_wal=str(base["begin_wal"]),
            finished=int(base["end_time_timestamp"]),
            version=int(shown["postgresql_version"]) // 10000,
            system_identifier=control.system_identifier,
            segment_size=control.segment_size,
            tablespaces={str(each["name"]): str(each["location"]) for each in shown["tablespaces"]},
            # Barman has each in a folder beside the data directory.
            tablespace_sizes={
                str(each["name"]): size_of(os.path.join(os.path.dirname(data), str(each["oid"])))
                for each in shown["tablespaces"]
            },
        )

    def show_server(self) -> str:
        """Return settings and state of the server, or "" where Barman does not tell."""
        try:
            return self.run("show-server", self._server)
        except CannotTell:
            return ""


def read_archive(server: str, config: str) -> Tuple[List[str], Dict[int, History]]:
    """Return what the archive holds, as the gate sees it, and its histories.

    Raises CannotTell.
    """
    from walbasin.gate import barman_archive, barman_config
    from walbasin.wal import segment

    try:
        folders = barman_archive.find_folders(barman_config.read_config(config, server), server)
        names = list(barman_archive.list_names(folders))
        histories = {}
        for name in filter(segment.is_history_name, names):
            found = barman_archive.open_file(folders, name)
            if found is not None:
                with os.fdopen(found[0], "rb") as file:
                    histories[segment.timeline(name)] = segment.parse_history(name, file.read())
    except (OSError, ValueError, barman_archive.ArchiveMissing, barman_config.UnknownFolders) as error:
        raise CannotTell(f"its WAL archive cannot be read: {error}") from error
    return names, histories


def examine_wal(
    begin_wal: str, names: List[str], histories: Dict[int, History], size: int, primary: Optional[Primary]
) -> Wal:
    """Return whether the archive leads from a backup to its end.

    primary: None where it is not known; then the newest timeline is the aim.
    """
    from walbasin.wal import holdings, segment

    target = primary.timeline if primary else max(segment.timeline(begin_wal), holdings.newest_timeline(names))
    begin = segment.segment_number(begin_wal, size)
    held = {
        name
        for name in names
        if segment.timeline(name) <= target
        and (segment.is_history_name(name) or segment.segment_number(name, size) >= begin)
    }
    newest = holdings.newest_segment(held)
    if begin_wal not in held:
        missing, later = begin_wal, holdings.find_later(begin_wal, held, target, histories, size)
    else:
        missing, later = holdings.find_gap(begin_wal, held, target, histories, size)
    end = segment.segment_number(newest, size) + 1 if newest else begin
    newest_timeline = holdings.newest_timeline(names)
    return Wal(
        newest=newest,
        bytes=max(0, end - begin) * size,
        missing=missing,
        later=later,
        abandoned=newest_timeline if newest_timeline > target else 0,
        behind=max(0, primary.lsn - end * size) if primary else 0,
    )


def find_divergence(
    timeline: int, lsn: int, own: History, primary: Optional[Primary], histories: Dict[int, History]
) -> Divergence:
    """Return where a standby has left the primary's history.

    timeline, lsn, own: where it is, and the history of its timeline as it knows it, or
    empty. histories: those in the archive.
    """
    if not lsn or primary is None:
        return Divergence()
    theirs = [] if primary.timeline == 1 else histories.get(primary.timeline)
    is_known = theirs is not None
    if theirs is None and timeline != primary.timeline:
        return Divergence(is_known=False)
    theirs = own if theirs is None else theirs
    if not own and timeline in histories:
        own = histories[timeline]
    elif not own and timeline in (primary.timeline, *dict(theirs)):
        own = [each for each in theirs if each[0] < timeline]
    elif not own and timeline > 1:
        return Divergence(at=min(lsn, primary.lsn))
    fork = find_fork([*own, (timeline, ENDLESS)], [*theirs, (primary.timeline, ENDLESS)])
    if lsn > fork:
        return Divergence(at=fork)
    is_ahead = fork == ENDLESS and lsn > primary.lsn
    return Divergence(at=primary.lsn if is_ahead else 0, is_ahead=is_ahead, is_known=is_known)


def find_fork(ours: History, theirs: History) -> int:
    """Return the LSN up to which two servers have the same WAL.

    Each has timelines, and the LSN at which it has left each of them. The same number
    means nothing: two servers that do not see each other take the same one.

    >>> find_fork([(1, 400), (2, ENDLESS)], [(1, 300), (2, ENDLESS)])
    300
    """
    for (our_timeline, our_end), (their_timeline, their_end) in zip(ours, theirs):
        if our_timeline != their_timeline or our_end != their_end:
            return min(our_end, their_end)
    return ENDLESS


def examine(asked: Dict[str, Any]) -> Examination:
    """Find out all of it. Raises CannotTell."""
    barman = Barman(asked["server"], asked["config"])
    version = barman.version()
    backup = barman.find_backup(asked["backup"])
    shown = barman.show_server()
    primary = parse_primary(shown)
    names, histories = read_archive(asked["server"], asked["config"])
    own = [(parent, left) for parent, left in asked["history"]]
    return Examination(
        backup=backup,
        wal=examine_wal(backup.begin_wal, names, histories, backup.segment_size, primary),
        primary=primary,
        verb="restore" if version >= RESTORE_SINCE else "recover",
        can_delta=can_delta(version, shown),
        needs_empty=version >= EMPTY_SINCE,
        divergence=find_divergence(asked["timeline"], asked["lsn"], own, primary, histories),
    )


def as_plain(value: Any) -> Any:
    """Return a value with dictionaries in place of named tuples."""
    if hasattr(value, "_asdict"):
        return {name: as_plain(each) for name, each in value._asdict().items()}
    return value


def main(asked: str) -> None:
    """Print what was found."""
    try:
        json.dump(as_plain(examine(json.loads(asked))), sys.stdout)
    except CannotTell as reason:
        json.dump({"error": str(reason)}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
