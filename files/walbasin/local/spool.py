"""The spool: verified WAL that waits to be asked for.

One folder for each cluster, Barman server and boot, below the spool folder. A segment's name in there is a promise that
the file was verified for this cluster. Everything is done relative to open folders, so that nothing can be
exchanged between check and use. The spool can only help: whoever cannot open it fetches directly.
"""

import contextlib
import fcntl
import os
import time
from typing import BinaryIO, Iterable, List, Optional, Tuple

from walbasin.local import handover, ipc, whole_file
from walbasin.local.data_directory import Cluster, postmaster
from walbasin.wal import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

BOOT_ID = "/proc/sys/kernel/random/boot_id"
UNFINISHED = ".unfinished"
ASIDE = ".aside" + UNFINISHED
OUTAGE = "outage"
SPARE_SEGMENTS = 4
SPARE_SHARE = 0.05


class Refused(Exception):
    """The spool must not be used; the text says why."""


def folder_name(cluster: Cluster, barman_host: str, server: str) -> str:
    """Device and inode of the data directory tell a restored copy beside its standby from the standby."""
    origin = f"{cluster.system_identifier}:{cluster.device:x}:{cluster.inode:x}"
    return f"{origin}:{_quoted(barman_host)}:{_quoted(server)}"


def _quoted(text: str) -> str:
    return "".join(char if char.isalnum() or char in "._-" else f"%{ord(char):02x}" for char in text)


def room(free: int, total: int, size: int) -> int:
    """How many segments fit on a filesystem that must keep the larger of 4 segments and 5 % free (all in bytes)."""
    return int(max(0, free - max(SPARE_SEGMENTS * size, SPARE_SHARE * total)) // size)


def _open_folder(name: str, parent: Optional[int] = None) -> int:
    """A descriptor of a private folder, made where it is missing. Raises Refused, OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(folder)
        owner = f"user {status.st_uid}, mode {status.st_mode & 0o7777:o}"
        raise Refused(f"{name} is open to others ({owner}): it must be ours alone, mode 700")
    return folder


class Spool:
    """An open spool of one cluster."""

    def __init__(self, root: str, cluster: Cluster, barman_host: str, server: str) -> None:
        """Opens it, and makes it where it is missing. Raises Refused."""
        try:
            with open(BOOT_ID, encoding="ascii") as file:
                boot = file.read().strip()
            own_name = folder_name(cluster, barman_host, server)
            self._root = _open_folder(root)
            of_cluster = _open_folder(own_name, self._root)
            try:
                self._folder = _open_folder(boot, of_cluster)
                # A rename can outlive the data behind it in a power loss, so what a former boot left is void.
                for former in set(os.listdir(of_cluster)) - {boot}:
                    _remove_folder(former, of_cluster)
            finally:
                os.close(of_cluster)
            self._target = f"{own_name}/{boot}"
            self._caller = f"{barman_host}.{server}"
        except OSError as error:
            raise Refused(f"spool {root}: {error.strerror}") from error

    def names(self) -> List[str]:
        """The segments in it, in order."""
        return sorted(name for name in os.listdir(self._folder) if segment.is_segment(name))

    def ask(self, name: str, fingerprint: str) -> "Optional[Tuple[str, ...]]":
        """See ipc.request."""
        return ipc.request(self._folder, name, fingerprint)

    def enter(self) -> None:
        """Make it the working directory."""
        os.fchdir(self._folder)

    def bind(self, door: "socket.socket", name: str) -> None:
        """Give a socket its name here. Raises OSError."""
        self.discard([name])
        door.bind(ipc.path(self._folder, name))

    def open_bell(self) -> int:
        """A descriptor that becomes readable when a segment was taken without asking. Raises OSError."""
        self.discard([ipc.BELL])
        os.mkfifo(ipc.BELL, 0o600, dir_fd=self._folder)
        return os.open(ipc.BELL, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)

    def publish(self, cluster: Cluster) -> bool:
        """Let barman-wal-restore's shell find it, by what it knows of the server that calls it.

        False when it can already. Only where a hand-over is a rename, which is all that the shell can do.
        """
        server = postmaster(cluster)
        link = f"{server}.{self._caller}"
        try:
            if server is None or "/" in self._caller or not self.is_beside(cluster.path("pg_wal")):
                return False
            if link in self._links():
                return False
            self.withdraw()
            os.symlink(self._target, link, dir_fd=self._root)
        except OSError:
            return False
        return True

    def withdraw(self) -> None:
        """The reverse of `publish`, for this server and any before it. Raises OSError."""
        for link in self._links():
            os.unlink(link, dir_fd=self._root)

    def _links(self) -> List[str]:
        """Those that lead here. Raises OSError."""
        found = []
        for name in os.listdir(self._root):
            with contextlib.suppress(OSError):
                if os.readlink(name, dir_fd=self._root) == self._target:
                    found.append(name)
        return found

    def clear(self) -> None:
        """Empty it, but for the outage that callers must know of."""
        with contextlib.suppress(OSError):
            self.withdraw()
        self.discard(set(os.listdir(self._folder)) - {OUTAGE})

    def take(self, name: str, destination: str) -> bool:
        """Hand a segment over. False when it is not here. Raises OSError."""
        try:
            self._hand_over(name, destination)
        except FileNotFoundError:
            return False
        return True

    def _hand_over(self, name: str, destination: str) -> None:
        with contextlib.suppress(OSError):  # another filesystem, or a destination that the copy will report on
            handover.hand_over(name, destination, self._folder)
            ipc.ring(self._folder, name)
            return
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            with whole_file.whole_file(destination) as file:
                while os.sendfile(file.fileno(), source, None, segment.LARGEST):
                    pass
        finally:
            os.close(source)
        self.discard([name])
        ipc.ring(self._folder, name)

    def claim(self) -> bool:
        """Become the one that fills it, until this process ends. False when another is at it."""
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self.discard(name for name in os.listdir(self._folder) if name.endswith(UNFINISHED))
        return True

    def begin(self, name: str) -> BinaryIO:
        """A file to receive a segment into; it is none of the names until `keep`. Raises OSError.

        It is locked until it is closed: whoever wants it may wait for the lock.
        """
        file = self._create(name + UNFINISHED)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def aside(self, name: str) -> BinaryIO:
        """A file without a name, beside the one that was begun. Raises OSError."""
        file = self._create(name + ASIDE)
        self.discard([name + ASIDE])
        return file

    def _create(self, name: str) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, 0o600, dir_fd=self._folder), "r+b")

    def keep(self, name: str) -> None:
        """What was begun is whole and verified. Raises OSError."""
        os.rename(name + UNFINISHED, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def drop(self, name: str) -> None:
        """What was begun came to nothing."""
        self.discard([name + UNFINISHED])

    def discard(self, names: Iterable[str]) -> None:
        """Remove files; one that is gone already is no error."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    def is_gone(self) -> bool:
        """Somebody has removed it, or the socket that is in it: nobody finds whom he could ask."""
        return os.fstat(self._folder).st_nlink == 0 or not os.path.exists(ipc.path(self._folder, ipc.SOCKET))

    def room(self, size: int) -> int:
        """How many segments of `size` bytes may still be put in."""
        filesystem = os.fstatvfs(self._folder)
        return room(filesystem.f_bavail * filesystem.f_frsize, filesystem.f_blocks * filesystem.f_frsize, size)

    def is_beside(self, folder: str) -> bool:
        """True when a hand-over to that folder is a rename, not a copy."""
        return os.fstat(self._folder).st_dev == os.stat(folder).st_dev

    def has_keeper(self) -> bool:
        """A background process is at it."""
        return ipc.is_answered(self._folder)

    def note(self, name: str, text: str) -> None:
        """Keep a text for whoever watches; it outlives the boot. One that cannot be written is missing, no more."""
        with contextlib.suppress(OSError), self.begin(f"../{name}") as file:
            file.write(text.encode())
            file.flush()
            self.keep(f"../{name}")

    def noted(self, name: str) -> str:
        """What was kept, or nothing."""
        try:
            descriptor = os.open(f"../{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def note_outage(self) -> None:
        """Barman could not be reached just now."""
        with contextlib.suppress(OSError), self.begin(OUTAGE) as file:
            file.write(str(time.monotonic()).encode())
            self.keep(OUTAGE)

    def end_outage(self) -> None:
        self.discard([OUTAGE])

    def outage_age(self) -> Optional[float]:
        """Seconds since Barman was last found unreachable, or None. The clock is the boot's, as the folder is."""
        try:
            descriptor = os.open(OUTAGE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            with os.fdopen(descriptor) as file:
                return time.monotonic() - float(file.read())
        except (OSError, ValueError):
            return None


def _remove_folder(name: str, parent: int) -> None:
    """Spool folders hold files only; what cannot be removed is left alone, since nobody reads it."""
    with contextlib.suppress(OSError):
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            for file in os.listdir(folder):
                os.unlink(file, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=parent)
