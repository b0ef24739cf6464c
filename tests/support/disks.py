"""Mount small filesystems for one test."""

import contextlib
import os
import subprocess
from pathlib import Path

from tests.support.processes import POSTGRES


class SmallDisk:
    """Mount a tmpfs of `size` bytes at `folder`, which postgres can write.

    The end of the `with` block unmounts it.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._size = size

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir(exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={self._size},mode=0755,uid={POSTGRES},gid={POSTGRES}", "tmpfs")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, self.folder], check=True)

    def free(self) -> int:
        """Return the free space in bytes."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self, but: int = 0) -> None:
        """Leave `but` bytes free, or fewer if another process writes as well."""
        with contextlib.suppress(OSError), (self.folder / "filling").open("ab", buffering=0) as file:
            while (left := self.free() - but) > 0:
                file.write(bytes(min(left, 1 << 20)))

    def make_read_only(self) -> None:
        self._mount("-o", "remount,ro")
