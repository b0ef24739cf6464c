"""Ask the running server which restore_command it uses."""

import contextlib
import os
import subprocess
from typing import List, NamedTuple, Optional

from walbasin.local import data_directory, mounts
from walbasin.local.data_directory import DataDirectory
from walbasin.local.spool import BOOT_ID

# Seconds for psql, and for its connection.
LIMIT, CONNECT_LIMIT = 20, 10
# Where Debian's and PGDG's packages put psql.
PACKAGED = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin")
# What may stand beside restore_command in a standby's settings, and stops it: its next
# start ends recovery there.
TARGETS = tuple(f"recovery_target{suffix}" for suffix in ("", "_name", "_time", "_xid", "_lsn"))


class NotAsked(Exception):
    """Report that the server could not be asked; the text says why."""


class Address(NamedTuple):
    """Hold where a server listens (postmaster.pid, pidfile.h)."""

    port: str
    folder: str
    host: str


def restore_command(cluster: DataDirectory) -> Optional[str]:
    """Return the restore_command in effect, "" for none. None: no server runs (yet).

    A server before PostgreSQL 12 does not tell: it is the one that it has read in its
    files. Raises NotAsked.
    """
    address = _read_address(cluster)
    if address is None:
        return None
    if cluster.major_version < 12:
        return data_directory.read_settings(cluster).get("restore_command", "")
    return _ask(cluster, address, "SHOW restore_command")


def is_primary(cluster: DataDirectory) -> bool:
    """Return whether a primary runs there. Raises NotAsked."""
    if data_directory.is_still_recovering(cluster):
        return False
    address = _read_address(cluster)
    return address is not None and _ask(cluster, address, "SELECT pg_is_in_recovery()") == "f"


def _ask(cluster: DataDirectory, address: Address, query: str) -> str:
    command = [_find_psql(cluster), "-XAtqw", "-h", address.folder or address.host, "-p", address.port]
    environment = {**os.environ, "PGCONNECT_TIMEOUT": str(CONNECT_LIMIT), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [*command, "-d", "postgres", "-c", query],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotAsked(f"psql has not answered in {LIMIT} seconds") from error
    except OSError as error:
        raise NotAsked(f"psql cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        raise NotAsked(" ".join(done.stderr.split()) or f"psql ended with status {done.returncode}")
    return done.stdout.rstrip("\n")


def _read_address(cluster: DataDirectory) -> Optional[Address]:
    """Return where the server listens, None for one that does not run, or not yet."""
    try:
        with open(cluster.file("postmaster.pid"), encoding="utf-8", errors="replace") as file:
            port, folder, host = file.read().splitlines()[3:6]
    except (OSError, ValueError):
        return None
    return Address(port, folder, "localhost" if host == "*" else host) if cluster.postmaster_id else None


def _find_psql(cluster: DataDirectory) -> str:
    """Return the psql beside the server's own program, or that of the PATH."""
    folders: List[str] = []
    if cluster.postmaster_id is not None:
        process = data_directory.process_id(cluster.postmaster_id)
        with contextlib.suppress(OSError):  # another user's, or in another namespace
            folders.append(os.path.dirname(os.readlink(f"/proc/{process}/exe")))
    folders += [each.format(cluster.major_version) for each in PACKAGED]
    found: Optional[str] = next(filter(os.path.exists, (f"{folder}/psql" for folder in folders)), None)
    return found or "psql"


def explain_command(effective: str, server: str) -> str:
    """Return why a server with this restore_command would not restore, or "".

    server: the name at Barman of the server whose WAL it needs.

    >>> explain_command("/bin/barman-wal-restore -p 8 barman angus %f %p", "angus")
    ''
    """
    words = effective.replace("'", " ").replace('"', " ").split()
    if not words:
        return "it has no restore_command, so it would not ask Barman"
    if not any(os.path.basename(word) == "barman-wal-restore" for word in words) or server not in words:
        return f"it uses another restore_command: {effective}"
    return ""


def explain_targets(cluster: DataDirectory) -> str:
    """Return which recovery target would stop a standby at its next start, or ""."""
    settings = data_directory.read_settings(cluster)
    found = next((name for name in TARGETS if settings.get(name)), "")
    reset = "take it out of recovery.conf" if cluster.major_version < 12 else f"ALTER SYSTEM RESET {found}"
    return f"{found} is set, so its next start would end recovery there: {reset}" if found else ""


def explain_spool(cluster: DataDirectory, spool: str) -> str:
    """Return why the running server cannot use a spool that we can use, or "".

    Its service may have mounts of its own. Empty too where nobody can tell.
    """
    if cluster.postmaster_id is None:
        return ""
    process = f"/proc/{data_directory.process_id(cluster.postmaster_id)}"
    try:
        if os.readlink(f"{process}/cwd") != cluster.path:  # of another container, with ids of its own
            return ""
        with open(f"{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            server = file.read()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            ours = file.read()
    except OSError:
        return ""
    return mounts.explain(server, ours, os.path.realpath(spool), BOOT_ID)
