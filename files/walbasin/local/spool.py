"""Keep verified WAL until PostgreSQL asks for it: the spool.

There is one folder for each cluster, Barman server and boot, below the spool folder.
A segment's name in there is a promise that the file was verified for this cluster.
Everything is done relative to open folders, so that nothing can be exchanged between
check and use. The spool can only help: whoever cannot open it fetches directly.
"""

import contextlib
import errno
import fcntl
import os
import time
from typing import BinaryIO, Iterable, List, NamedTuple, Optional, Tuple

from walbasin.local import handover, ipc
from walbasin.local.data_directory import DataDirectory
from walbasin.local.whole_file import whole_file
from walbasin.wal import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

# Changes with each boot (random(4)).
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# Ends the name of a file that is not verified yet.
UNFINISHED = ".unfinished"
COMPRESSED = ".compressed" + UNFINISHED
# Holds when Barman was last found unreachable, and in a second line why.
OUTAGE = "outage"
# Holds the id of the last prefetch process.
PROCESS = "process"
# Begins the name of a note on one of several Barman hosts (host_memory.py).
HOST_NOTE = "host."
# What the spool leaves free on its filesystem: segments, and a share of the whole.
SPARE_SEGMENTS = 4
SPARE_SHARE = 0.05


class Outage(NamedTuple):
    """Hold how many seconds ago Barman could not be reached, and why, in words."""

    age: float
    cause: str


class SpoolRefused(Exception):
    """Report that the spool must not be used; the text says why."""


def folder_name(cluster: DataDirectory, server: str) -> str:
    """Return the name of a cluster's folder, whatever Barman hosts it has.

    Device and inode tell a restored copy beside its standby from the standby.
    """
    return f"{cluster.system_identifier}:{cluster.device:x}:{cluster.inode:x}:{quoted(server)}"


def quoted(text: str) -> str:
    """Return a name as a part of a file's name."""
    return "".join(char if char.isalnum() or char in "._-" else f"%{ord(char):02x}" for char in text)


def free_segments(free: int, total: int, size: int) -> int:
    """Return how many segments still fit on a filesystem.

    It must keep the larger of 4 segments and 5 % free. All in bytes.

    >>> free_segments(free=100, total=1000, size=10)
    5
    """
    return int(max(0, free - spare(total, size)) // size)


def spare(total: int, size: int) -> float:
    """Return the bytes that a filesystem of `total` bytes must keep free.

    size: of a segment, in bytes.
    """
    return max(SPARE_SEGMENTS * size, SPARE_SHARE * total)


def _open_folder(name: str, parent: Optional[int] = None, may_create: bool = True) -> int:
    """Return a descriptor of a private folder, made where it is missing.

    Raises SpoolRefused, OSError.
    """
    with contextlib.suppress(FileExistsError):
        if may_create:
            os.mkdir(name, 0o700, dir_fd=parent)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    status = os.fstat(folder)
    if not _is_private(status):
        os.close(folder)
        owner = f"user {status.st_uid}, mode {status.st_mode & 0o7777:o}"
        raise SpoolRefused(f"{name} is open to others ({owner}): it must be ours alone, mode 700")
    return folder


def _is_private(status: os.stat_result) -> bool:
    """Return whether a folder is ours, and closed to everybody else."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


class Spool:
    """Keep the segments of one cluster."""

    def __init__(self, root: str, cluster: DataDirectory, server: str, *, may_create: bool = True) -> None:
        """Open it, and make it where it is missing. Raises SpoolRefused.

        may_create: False leaves a spool folder that is missing alone.
        """
        try:
            with open(BOOT_ID, encoding="ascii") as file:
                boot = file.read().strip()
            cluster_folder = folder_name(cluster, server)
            self._target = f"{cluster_folder}/{boot}"
            self._server = server
            self._root = _open_folder(root, may_create=may_create)
            try:
                of_cluster = _open_folder(cluster_folder, self._root)
                try:
                    self._folder = _open_folder(boot, of_cluster)
                    self._remove_foreign_files()
                    # Remove what a former boot left: in a power loss a rename can
                    # outlive the data behind it.
                    for former in set(os.listdir(of_cluster)) - {boot}:
                        _remove_folder(former, of_cluster)
                finally:
                    os.close(of_cluster)
            except SpoolRefused:
                self.unregister()
                raise
        except OSError as error:
            if not may_create and isinstance(error, FileNotFoundError) and error.filename == root:
                raise SpoolRefused(f"spool {root} is missing: the first call of restore_command makes it") from error
            where = "" if error.filename in (None, root) else f"{error.filename}: "
            raise SpoolRefused(f"spool {root}: {where}{error.strerror}") from error

    def _remove_foreign_files(self) -> None:
        """Remove what others have put in while it was open and nobody looked."""
        for name in os.listdir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # taken in this moment
                if os.stat(name, dir_fd=self._folder, follow_symlinks=False).st_uid != os.geteuid():
                    self.remove([name])

    def descriptors(self) -> List[int]:
        """Return what it has open."""
        return [self._root, self._folder]

    def names(self) -> List[str]:
        """Return the segments in it, in order."""
        return sorted(name for name in os.listdir(self._folder) if segment.is_segment_name(name))

    def request_file(self, name: str, fingerprint: str) -> "Optional[ipc.Reply]":
        """Ask the prefetch process for a file (see ipc.request_file)."""
        return ipc.request_file(self._folder, name, fingerprint)

    def has_prefetch_process(self) -> bool:
        """Return whether a prefetch process is at work."""
        return ipc.is_listening(self._folder)

    def enter(self) -> None:
        """Make it the working directory."""
        os.fchdir(self._folder)

    def bind(self, listener: "socket.socket") -> None:
        """Give the prefetch process's socket its name here. Raises OSError."""
        self.remove([ipc.SOCKET])
        listener.bind(ipc.path_in(self._folder, ipc.SOCKET))

    def open_taken_fifo(self) -> int:
        """Return a descriptor that is readable when a segment was taken without asking.

        Raises OSError.
        """
        self.remove([ipc.TAKEN])
        os.mkfifo(ipc.TAKEN, 0o600, dir_fd=self._folder)
        return os.open(ipc.TAKEN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)

    def register(self, cluster: DataDirectory) -> bool:
        """Let barman-wal-restore's shell find it, by what it knows of its server.

        Returns False when it can already. Only where delivery is a rename, which is all
        that the shell can do.
        """
        link = f"{cluster.postmaster_id}:{self._server}"
        try:
            if cluster.postmaster_id is None or "/" in self._server:
                return False
            if not self.is_same_filesystem(cluster.file("pg_wal")) or link in self._links():
                return False
            self.unregister()
            os.symlink(self._target, link, dir_fd=self._root)
        except OSError:
            return False
        return True

    def unregister(self) -> None:
        """Undo `register`, for this server and any before it. Raises OSError."""
        for link in self._links():
            os.unlink(link, dir_fd=self._root)

    def _links(self) -> List[str]:
        """Return the links that lead here. Raises OSError."""
        found = []
        for name in os.listdir(self._root):
            with contextlib.suppress(OSError):
                if os.readlink(name, dir_fd=self._root) == self._target:
                    found.append(name)
        return found

    def clear(self, kept: Iterable[str] = ()) -> None:
        """Empty it, but for what later calls must know, and for these segments."""
        with contextlib.suppress(OSError):
            self.unregister()
        names = set(os.listdir(self._folder)) - {OUTAGE, PROCESS, *kept}
        self.remove(name for name in names if not name.startswith(HOST_NOTE))

    def is_private(self) -> bool:
        """Return whether its folders are still ours alone, with mode 700.

        The shell does not ask: it sees no more than the owner.
        """
        try:
            found = (os.fstat(self._root), os.stat("..", dir_fd=self._folder), os.fstat(self._folder))
        except OSError:
            return False
        return all(map(_is_private, found))

    def close_to_others(self) -> None:
        """Let nobody else into the cluster's folder and the one below any more.

        What is in there is to be cleared then. The folder above is the operator's.
        """
        for name in ("..", "."):
            with contextlib.suppress(OSError):
                os.chmod(name, 0o700, dir_fd=self._folder)

    def deliver(self, name: str, destination: str) -> bool:
        """Move a segment to its destination. Return False when it is not here.

        Raises OSError.
        """
        try:
            self._deliver(name, destination)
        except FileNotFoundError:
            return False
        return True

    def _deliver(self, name: str, destination: str) -> None:
        with contextlib.suppress(OSError):  # another filesystem, or a destination that the copy will report on
            handover.rename(name, destination, self._folder)
            ipc.notify_taken(self._folder, name)
            return
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            with whole_file(destination) as file:
                while os.sendfile(file.fileno(), source, None, segment.LARGEST):
                    pass
        finally:
            os.close(source)
        self.remove([name])
        ipc.notify_taken(self._folder, name)

    def lock(self) -> bool:
        """Become the one that fills it, until this process ends.

        Returns False when another process does.
        """
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self.remove(name for name in os.listdir(self._folder) if name.endswith(UNFINISHED))
        return True

    def create(self, name: str) -> BinaryIO:
        """Return a file to receive a segment into. Raises OSError.

        It gets its name by `commit`. It is locked until it is closed: whoever wants it
        may wait for the lock.
        """
        file = self._create(name + UNFINISHED)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def create_temporary(self, name: str) -> BinaryIO:
        """Return a file without a name, for a compressed segment. Raises OSError."""
        file = self._create(name + COMPRESSED)
        self.remove([name + COMPRESSED])
        return file

    def _create(self, name: str) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, 0o600, dir_fd=self._folder), "r+b")

    def commit(self, name: str) -> None:
        """Give a created file its name: it is whole and verified. Raises OSError."""
        os.rename(name + UNFINISHED, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def abort(self, name: str) -> None:
        """Remove a created file that came to nothing."""
        self.remove([name + UNFINISHED])

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is gone already is no error."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    def is_removed(self) -> bool:
        """Return whether somebody has removed the folder, or the socket in it."""
        return os.fstat(self._folder).st_nlink == 0 or not os.path.exists(ipc.path_in(self._folder, ipc.SOCKET))

    def free_segments(self, size: int) -> int:
        """Return how many segments of `size` bytes may still be put in."""
        return free_segments(*self._space(), size)

    def check_space(self, length: int, size: int) -> None:
        """Raise OSError where `length` more bytes would take what must stay free.

        size: of a segment, in bytes.
        """
        free, total = self._space()
        if free - length < spare(total, size):
            raise OSError(errno.ENOSPC, "what must stay free of its filesystem is reached")

    def _space(self) -> Tuple[int, int]:
        """Return the bytes that are free on its filesystem, and that there are."""
        filesystem = os.fstatvfs(self._folder)
        return filesystem.f_bavail * filesystem.f_frsize, filesystem.f_blocks * filesystem.f_frsize

    def is_same_filesystem(self, folder: str) -> bool:
        """Return whether delivery to that folder is a rename, not a copy."""
        return os.fstat(self._folder).st_dev == os.stat(folder).st_dev

    def save_text(self, name: str, text: str) -> None:
        """Keep a text for whoever watches, from boot to boot.

        One that cannot be written is missing, no more.
        """
        self._save(f"../{name}", text)

    def _save(self, name: str, text: str) -> None:
        with contextlib.suppress(OSError), self.create(name) as file:
            file.write(text.encode())
            file.flush()
            self.commit(name)

    def load_text(self, name: str) -> str:
        """Return what save_text kept, or an empty string."""
        return self.load_note(f"../{name}")

    def save_note(self, name: str, text: str) -> None:
        """Keep a text until the next boot. One that cannot be written is missing."""
        self._save(name, text)

    def load_note(self, name: str) -> str:
        """Return what save_note kept, or an empty string."""
        try:
            with self._open_to_read(name) as file:
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def record_process(self, process: int) -> None:
        """Remember the prefetch process, at its start and at its end."""
        self._save(PROCESS, str(process))

    def former_process(self, seconds: float) -> Optional[int]:
        """Return the id of the last prefetch process, or None.

        None too when it was recorded in the last `seconds`, or before the boot.
        """
        try:
            with self._open_to_read(PROCESS) as file:
                is_old = time.time() - os.fstat(file.fileno()).st_mtime > seconds
                return int(file.read()) if is_old else None
        except (OSError, ValueError):
            return None

    def record_outage(self, cause: str) -> None:
        """Remember that Barman could not be reached just now, and why."""
        self._save(OUTAGE, f"{time.monotonic()}\n{cause}")

    def clear_outage(self) -> None:
        """Forget the outage: Barman was reached."""
        self.remove([OUTAGE])

    def outage(self) -> Optional[Outage]:
        """Return the last outage, unless Barman has been reached since.

        The clock is the boot's, as the folder is.
        """
        moment, _, cause = self.load_note(OUTAGE).partition("\n")
        try:
            return Outage(time.monotonic() - float(moment), cause)
        except ValueError:
            return None

    def _open_to_read(self, name: str) -> BinaryIO:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        return os.fdopen(descriptor, "rb")


def _remove_folder(name: str, parent: int) -> None:
    """Remove a spool folder, which holds files only. Leave what cannot be removed."""
    with contextlib.suppress(OSError):
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            for file in os.listdir(folder):
                os.unlink(file, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=parent)
