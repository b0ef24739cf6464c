"""Read Barman's archive of one server from its own folders, without Barman.

Do not ask `barman show-servers` for the folders: it connects to the primary, which may
be just what is dead. Configuration, folders and the order of lookup are those of Barman
2.12 to 3.19.1 (config.py, server.py).
"""

import configparser
import glob
import logging
import os
import re
import stat
from typing import Dict, List, NamedTuple, Optional, Tuple

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
# Names the configuration model that `barman config-switch` has applied.
ACTIVE_MODEL = ".active-model.auto"
# Barman's default.
LOG_FORMAT = "%(asctime)s [%(process)s] %(name)s %(levelname)s: %(message)s"


class UnknownFolders(Exception):
    """Report that the folders of a server cannot be found; the text says why."""


class Folders(NamedTuple):
    """Hold where Barman keeps the WAL of one server."""

    wals: str
    incoming: str
    streaming: str


def read_config(path: str = "") -> configparser.ConfigParser:
    """Return Barman's configuration, with the files that it includes.

    path: the file; by default the first of its usual places. Raises UnknownFolders.
    """
    config = configparser.ConfigParser(strict=False)
    candidates = [path] if path else [os.path.expanduser(one) for one in CONFIG_FILES]
    found = next((one for one in candidates if os.path.exists(one)), None)
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
    if os.path.exists(os.path.join(known["backup_directory"], ACTIVE_MODEL)):
        raise UnknownFolders("a configuration model is active")
    if not os.path.isdir(known["wals_directory"]):
        raise UnknownFolders(f"{known['wals_directory']} is not a folder here")
    return Folders(known["wals_directory"], known["incoming_wals_directory"], known["streaming_wals_directory"])


def candidate_paths(folders: Folders, name: str) -> List[str]:
    """Return where a file may be, in Barman's order.

    Look into wals/ twice: the archiver moves files there from incoming/ and streaming/,
    so without the second look "not there" can be false.
    """
    archived = os.path.join(folders.wals, name[:16] if segment.is_segment_name(name) else "", name)
    return [archived, os.path.join(folders.incoming, name), os.path.join(folders.streaming, name), archived]


def open_file(folders: Folders, name: str) -> Optional[Tuple[int, int]]:
    """Return a descriptor of the file and its bytes, or None if it is not there.

    Raises OSError.
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
    # Raise for an archive that was moved or unmounted meanwhile: it may have the file.
    os.stat(folders.wals)
    return None


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
