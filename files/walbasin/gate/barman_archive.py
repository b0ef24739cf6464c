"""Barman's archive of one server, read from its own folders, without Barman and without its primary.

`barman show-servers` would name the folders too, but it connects to the primary, which may be just what is dead.
Configuration, folders and the order of lookup are those of Barman 2.12 to 3.19.1 (config.py, server.py).
"""

import configparser
import glob
import logging
import os
import re
import stat
from typing import Dict, List, NamedTuple, Optional, Tuple

from walbasin.wal import segment

CONFIG_FILES = ("~/.barman.conf", "/etc/barman.conf", "/etc/barman/barman.conf")
FOLDERS = {
    "backup_directory": "%(barman_home)s/%(name)s",
    "wals_directory": "%(backup_directory)s/wals",
    "incoming_wals_directory": "%(backup_directory)s/incoming",
    "streaming_wals_directory": "%(backup_directory)s/streaming",
}
# A configuration model that was applied with `barman config-switch` can change any setting.
ACTIVE_MODEL = ".active-model.auto"
LOG_FORMAT = "%(asctime)s [%(process)s] %(name)s %(levelname)s: %(message)s"


class Unreadable(Exception):
    """The folders cannot be told from the configuration, or do not lie here; the text says why."""


class Folders(NamedTuple):
    """Where Barman keeps the WAL of one server."""

    wals: str
    incoming: str
    streaming: str


def read_config(path: str = "") -> configparser.ConfigParser:
    """Barman's configuration: the file, or the first of its usual places, and what that includes. Raises Unreadable."""
    config = configparser.ConfigParser(strict=False)
    candidates = [path] if path else [os.path.expanduser(one) for one in CONFIG_FILES]
    found = next((one for one in candidates if os.path.exists(one)), None)
    if found is None:
        raise Unreadable(f"there is no configuration in {' or '.join(candidates)}")
    try:
        if not config.read(found):
            raise Unreadable(f"{found} cannot be read")
        folder = os.path.expanduser(_get(config, "barman", "configuration_files_directory") or "")
        config.read(sorted(glob.glob(os.path.join(glob.escape(folder), "*.conf"))) if folder else [])
        # What `barman config-update` has written, in the end.
        config.read(os.path.join(_get(config, "barman", "barman_home") or "", ".barman.auto.conf"))
    except configparser.Error as error:
        raise Unreadable(f"{found}: {error}") from error
    return config


def _get(
    config: configparser.ConfigParser, section: str, option: str, known: Optional[Dict[str, str]] = None
) -> Optional[str]:
    try:
        value = config.get(section, option, vars=known)
    except (configparser.NoSectionError, configparser.NoOptionError):
        return None
    return re.sub(r"""^(["'])(.*)\1$""", r"\2", value)


def folders(config: configparser.ConfigParser, server: str) -> Folders:
    """Where a server's WAL is. Raises Unreadable."""
    if server == "barman" or not config.has_section(server):
        raise Unreadable(f"there is no server {server} in the configuration")
    known = {"name": server, "barman_home": _get(config, "barman", "barman_home") or ""}
    try:
        for option, default in FOLDERS.items():
            known[option] = _get(config, server, option, known) or default % known
    except configparser.Error as error:
        raise Unreadable(f"section {server}: {error}") from error
    if os.path.exists(os.path.join(known["backup_directory"], ACTIVE_MODEL)):
        raise Unreadable("a configuration model is active")
    if not os.path.isdir(known["wals_directory"]):
        raise Unreadable(f"{known['wals_directory']} is not a folder here")
    return Folders(known["wals_directory"], known["incoming_wals_directory"], known["streaming_wals_directory"])


def paths(where: Folders, name: str) -> List[str]:
    """Where a file may be, in Barman's order.

    The archiver moves files from incoming/ and streaming/ to wals/, hence the second look there: without it
    "not there" can be false.
    """
    archived = os.path.join(where.wals, name[:16] if segment.is_segment(name) else "", name)
    return [archived, os.path.join(where.incoming, name), os.path.join(where.streaming, name), archived]


def open_file(where: Folders, name: str) -> Optional[Tuple[int, int]]:
    """A descriptor of the file and its length in bytes, or None when the archive does not have it. Raises OSError."""
    for path in paths(where, name):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return descriptor, status.st_size
        os.close(descriptor)
        raise OSError(None, "not a regular file", path)
    os.stat(where.wals)  # an archive that was moved or unmounted meanwhile has everything, and here is nothing
    return None


def open_log(config: configparser.ConfigParser) -> logging.Logger:
    """Barman's own log, where it has one that we can write to."""
    logger = logging.getLogger("walbasin.gate")
    logger.propagate = False
    logging.raiseExceptions = False
    handler: logging.Handler = logging.NullHandler()
    try:
        path = _get(config, "barman", "log_file")
        if path:
            handler = logging.FileHandler(os.path.abspath(path))
        # Barman itself does not start with a %(asctime)s in its configuration: each % must be doubled there.
        handler.setFormatter(logging.Formatter(_get(config, "barman", "log_format") or LOG_FORMAT))
        logger.setLevel((_get(config, "barman", "log_level") or "INFO").upper())
    except (OSError, ValueError, configparser.Error):
        handler = logging.NullHandler()
    logger.addHandler(handler)
    return logger
