"""Read Barman's archive of one server from its own folders, without Barman.

Do not ask `barman show-servers` for the folders: it connects to the primary, which may
be just what is dead. Configuration, folders and the order of lookup are those of Barman
2.12 to 3.19.1 (config.py, server.py).
"""

import configparser
import contextlib
import glob
import logging
import os
import re
import stat
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from walbasin.wal import segment

# Where Barman looks for its configuration, in its order.
CONFIG_FILES = ("~/.barman.conf", "/etc/barman.conf", "/etc/barman/barman.conf")
# Barman's defaults for the folders of a server.
FOLDERS = {
    "backup_directory": "%(barman_home)s/%(name)s",
    "wals_directory": "%(backup_directory)s/wals",
    "incoming_wals_directory": "%(backup_directory)s/incoming",
    "streaming_wals_directory": "%(backup_directory)s/streaming",
}
# Names the configuration model that `barman config-switch` has applied. A model cannot
# change folders: Barman forbids path options there.
ACTIVE_MODEL = ".active-model.auto"
# Makes a server a passive copy of the one on the Barman host that it reaches.
PASSIVE_OPTION = "primary_ssh_command"
# Barman's default.
LOG_FORMAT = "%(asctime)s [%(process)s] %(name)s %(levelname)s: %(message)s"


class UnknownFolders(Exception):
    """Report that the folders of a server cannot be found; the text says why."""


class ArchiveMissing(Exception):
    """Report that an archive is not where it should be; the text says why.

    What it would hold can then not be known. Barman itself says "not found" of it.
    """


class Folders(NamedTuple):
    """Hold where Barman keeps the WAL of one server."""

    wals: str
    incoming: str
    streaming: str


def is_config(path: str, config: str) -> bool:
    """Return whether a path is the file that read_config(config) reads."""
    found = next(filter(os.path.exists, _candidates(config)), config)
    return bool(found) and os.path.realpath(path) == os.path.realpath(found)


def _candidates(path: str) -> List[str]:
    """Return the file that is named, else those where Barman looks, in its order."""
    return [path] if path else [os.path.expanduser(one) for one in CONFIG_FILES]


def read_config(path: str = "") -> configparser.ConfigParser:
    """Return Barman's configuration, with the files that it includes.

    path: the file; by default the first of its usual places. Raises UnknownFolders.
    """
    config = configparser.ConfigParser(strict=False)
    candidates = _candidates(path)
    found = next(filter(os.path.exists, candidates), None)
    if found is None:
        raise UnknownFolders(f"there is no configuration in {' or '.join(candidates)}")
    try:
        if not config.read(found):
            raise UnknownFolders(f"{found} cannot be read")
        folder = os.path.expanduser(_get(config, "barman", "configuration_files_directory") or "")
        config.read(sorted(glob.glob(os.path.join(glob.escape(folder), "*.conf"))) if folder else [])
        # `barman config-update` has the last word.
        config.read(os.path.join(_get(config, "barman", "barman_home") or "", ".barman.auto.conf"))
    except configparser.Error as error:
        raise UnknownFolders(f"{found}: {error}") from error
    return config


def _get(
    config: configparser.ConfigParser, section: str, option: str, known: Optional[Dict[str, str]] = None
) -> Optional[str]:
    try:
        value = config.get(section, option, vars=known)
    except (configparser.NoSectionError, configparser.NoOptionError):
        return None
    return re.sub(r"""^(["'])(.*)\1$""", r"\2", value)


def find_folders(config: configparser.ConfigParser, server: str) -> Folders:
    """Return where a server's WAL is. Raises UnknownFolders."""
    if server == "barman" or not config.has_section(server):
        raise UnknownFolders(f"there is no server {server} in the configuration")
    known = {"name": server, "barman_home": _get(config, "barman", "barman_home") or ""}
    try:
        for option, default in FOLDERS.items():
            known[option] = _get(config, server, option, known) or default % known
    except configparser.Error as error:
        raise UnknownFolders(f"section {server}: {error}") from error
    return Folders(known["wals_directory"], known["incoming_wals_directory"], known["streaming_wals_directory"])


def require_archive(folders: Folders) -> None:
    """Raise ArchiveMissing unless the folder of archived WAL is there."""
    if "://" in folders.wals:  # Barman 3.18 and later
        raise ArchiveMissing(f"Barman keeps this WAL in {folders.wals}, and gives none of it out")
    if not os.path.isdir(folders.wals):
        raise ArchiveMissing(f"{folders.wals} is not a folder here: is its filesystem mounted?")


def is_passive(config: configparser.ConfigParser, server: str) -> bool:
    """Return whether this Barman copies a server's archive from another one."""
    home = _get(config, "barman", "barman_home") or ""
    default = FOLDERS["backup_directory"] % {"barman_home": home, "name": server}
    folder = _get(config, server, "backup_directory", {"barman_home": home, "name": server}) or default
    sections = [server]
    try:
        with open(os.path.join(folder, ACTIVE_MODEL), encoding="utf-8", errors="replace") as file:
            sections.append(file.read().strip())
    except OSError:
        pass  # no model is active
    return any(_get(config, section, PASSIVE_OPTION) for section in sections)


def candidate_paths(folders: Folders, name: str) -> List[str]:
    """Return where a file may be, in Barman's order.

    Look into wals/ twice: the archiver moves files there from incoming/ and streaming/,
    so without the second look "not there" can be false.
    """
    archived = os.path.join(folders.wals, name[:16] if segment.is_segment_name(name) else "", name)
    return [archived, os.path.join(folders.incoming, name), os.path.join(folders.streaming, name), archived]


def open_file(folders: Folders, name: str) -> Optional[Tuple[int, int]]:
    """Return a descriptor of the file and its bytes, or None if it is not there.

    Raises ArchiveMissing, OSError.
    """
    for path in candidate_paths(folders, name):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return descriptor, status.st_size
        os.close(descriptor)
        raise OSError(None, "not a regular file", path)
    require_archive(folders)
    return None


def list_names(folders: Folders) -> Iterator[str]:
    """Yield the names of all segments and history files.

    wals/ comes last: files are moved there from the others meanwhile. Raises
    ArchiveMissing, OSError.
    """
    require_archive(folders)
    for folder in (folders.incoming, folders.streaming):
        with contextlib.suppress(FileNotFoundError):
            yield from filter(segment.is_wal_file_name, os.listdir(folder))
    for name in os.listdir(folders.wals):
        if segment.is_history_name(name):
            yield name
        elif len(name) == 16:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield from filter(segment.is_segment_name, os.listdir(os.path.join(folders.wals, name)))


def open_log(config: configparser.ConfigParser) -> logging.Logger:
    """Return a logger into Barman's log, or into nothing if that cannot be written."""
    logger = logging.getLogger("walbasin.gate")
    logger.propagate = False
    logging.raiseExceptions = False
    handler: logging.Handler = logging.NullHandler()
    try:
        path = _get(config, "barman", "log_file")
        if path:
            handler = logging.FileHandler(os.path.abspath(path))
        # Take log_format as it is: Barman starts only when each % is doubled there.
        handler.setFormatter(logging.Formatter(_get(config, "barman", "log_format") or LOG_FORMAT))
        logger.setLevel((_get(config, "barman", "log_level") or "INFO").upper())
    except (OSError, ValueError, configparser.Error):
        handler = logging.NullHandler()
    logger.addHandler(handler)
    return logger
