"""Compare what two processes see at a path: a service may have mounts of its own.

systemd gives a service such mounts for ProtectSystem=, PrivateTmp=, ProcSubset= and the
like. Source: proc(5), /proc/PID/mountinfo.
"""

import os
import re
from typing import List, NamedTuple, Optional, Tuple


class Mount(NamedTuple):
    """Hold a line of mountinfo.

    device, root: the filesystem, and what of it is mounted. options: of the mount and
    of the filesystem.
    """

    device: str
    root: str
    point: str
    kind: str
    options: Tuple[str, ...]


def parse(mountinfo: str) -> List[Mount]:
    """Return the mounts in a mountinfo, in their order."""
    found = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        first, last = before.split(" "), after.split(" ")
        if separator and len(first) >= 6 and len(last) >= 3:
            mount = Mount(
                device=first[2],
                root=_unescape(first[3]),
                point=_unescape(first[4]),
                kind=last[0],
                options=(*first[5].split(","), *last[2].split(",")),
            )
            found.append(mount)
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def find(mounts: List[Mount], path: str) -> Optional[Mount]:
    """Return the mount that a path is on; None where no line tells."""
    around = [mount for mount in mounts if f"{path}/".startswith(mount.point.rstrip("/") + "/")]
    # Of two on the same point the later one is seen.
    return max(enumerate(around), key=lambda pair: (len(pair[1].point), pair[0]))[1] if around else None


def _place(mount: Mount, path: str) -> Tuple[str, str]:
    """Return the filesystem, and the path in it, that a path leads to."""
    return mount.device, os.path.normpath(f"{mount.root}/{path[len(mount.point.rstrip('/')) :]}")


def explain(server: str, ours: str, spool: str, boot_id: str) -> str:
    """Return why a server cannot use the spool that we can use, or "".

    server, ours: what is in their mountinfo and in ours. spool, boot_id: real paths.
    """
    mounts = parse(server)
    theirs, mine, proc = find(mounts, spool), find(parse(ours), spool), find(mounts, boot_id)
    if theirs is not None and mine is not None:
        if _place(theirs, spool) != _place(mine, spool):
            return (
                f"the server sees another folder at {spool}: look for PrivateTmp=, ProtectHome=, BindPaths= and "
                "TemporaryFileSystem= in its unit, or choose another --spool-dir"
            )
        if "ro" in theirs.options and "ro" not in mine.options:
            return f"the server cannot write to {spool}: add ReadWritePaths={spool} to its unit"
    if proc is not None and (proc.kind != "proc" or "subset=pid" in proc.options):
        return f"the server cannot read {boot_id}: take ProcSubset=pid out of its unit, or what hides /proc/sys there"
    return ""
