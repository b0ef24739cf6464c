"""Read Barman's archive of one server from its own folders, without Barman.

Do not ask `barman show-servers` for the folders: it connects to the primary, which may
be just what is dead. The folders and the order of lookup are those of Barman 2.12 to
3.19.1 (config.py, server.py).
"""

import configparser
import contextlib
import logging
import os
import stat
import time
from configparser import ConfigParser
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from walbasin.gate import barman_config
from walbasin.gate.barman_config import Config, UnknownFolders
from walbasin.wal import passive, segment
from walbasin.wal.passive import PassiveNode

BACKUPS = "backup_directory"
# Barman's defaults for the folders of a server, in the order in which it reads them:
# the later ones can refer to the earlier.
FOLDERS = {
    BACKUPS: "%(barman_home)s/%(name)s",
    "incoming_wals_directory": "%(backup_directory)s/incoming",
    "streaming_wals_directory": "%(backup_directory)s/streaming",
    "wals_directory": "%(backup_directory)s/wals",
}
# Names the configuration model that `barman config-switch` has applied. A model cannot
# change folders: Barman forbids path options there.
ACTIVE_MODEL = ".active-model.auto"
# Makes a section a model, unless it is false.
MODEL_OPTION, FALSE = "model", ("false", "f", "no", "0", "off")
# Makes a server a passive copy of the one on the Barman host that it reaches.
PASSIVE_OPTION = "primary_ssh_command"
# Among a server's backups: what a passive node last heard of the other Barman.
PRIMARY_INFO = "primary.info"
# What Barman takes for no value.
UNSET = ("", "None")
# Barman's settings of its log, with its defaults.
LOG_OPTIONS = {
    "log_file": "",
    "log_format": "%(asctime)s [%(process)s] %(name)s %(levelname)s: %(message)s",
    "log_level": "INFO",
}


class ArchiveMissing(Exception):
    """Report that an archive is not where it should be; the text says why.

    What it would hold can then not be known. Barman itself says "not found" of it.
    """


class Folders(NamedTuple):
    """Hold where Barman keeps the WAL of one server."""

    wals: str
    incoming: str
    streaming: str


def find_folders(config: Config, server: str) -> Folders:
    """Return where a server's WAL is.

    Raises UnknownFolders, also when it depends on the version of Barman.
    """
    found, reasons = set(), []
    for reading in config.readings:
        try:
            found.add(_find_folders(reading, server))
        except UnknownFolders as reason:
            reasons.append(reason)
    if not found:
        raise reasons[0]
    if len(found) > 1:
        raise UnknownFolders(f"{config.file}: not every version of Barman reads section {server} as the others do")
    return found.pop()


def _find_folders(config: ConfigParser, server: str) -> Folders:
    if server == barman_config.GLOBAL or not config.has_section(server):
        raise UnknownFolders(f"there is no server {server} in the configuration")
    known = _known(config, server)
    try:
        if (barman_config.get(config, server, MODEL_OPTION) or FALSE[0]).lower() not in FALSE:
            raise UnknownFolders(f"{server} is a model in the configuration, not a server")
        for option, default in FOLDERS.items():
            known[option] = barman_config.get(config, server, option, known) or default % known
    except configparser.Error as error:
        raise UnknownFolders(f"section {server}: {error}") from error
    return Folders(known["wals_directory"], known["incoming_wals_directory"], known["streaming_wals_directory"])


def _known(config: ConfigParser, server: str) -> Dict[str, str]:
    """Return what a server's options can refer to."""
    return {"name": server, "barman_home": barman_config.get(config, barman_config.GLOBAL, "barman_home") or ""}


def require_archive(folders: Folders) -> None:
    """Raise ArchiveMissing unless the folder of archived WAL is there."""
    if "://" in folders.wals:  # Barman 3.18 and later
        raise ArchiveMissing(f"Barman keeps this WAL in {folders.wals}, and gives none of it out")
    if not os.path.isdir(folders.wals):
        raise ArchiveMissing(f"{folders.wals} is not a folder here: is its filesystem mounted?")


def find_passive_node(config: Config, server: str) -> Optional[PassiveNode]:
    """Return whose archive of a server this Barman copies, or None: it has its own.

    Raises UnknownFolders.
    """
    (command,) = find_values(config, server, PASSIVE_OPTION)
    if not command:
        return None
    try:
        backups = _find_backups(config.readings[0], server)
    except configparser.Error as error:
        raise UnknownFolders(f"section {server}: {error}") from error
    return PassiveNode(passive.find_source(command), _age(os.path.join(backups, PRIMARY_INFO)))


def find_values(config: Config, server: str, *options: str) -> List[str]:
    """Return what a server's options are set to, each an empty string when it is not.

    For options that a model can have, and that can be set for all servers. Raises
    UnknownFolders.
    """
    try:
        model = _active_model(config.readings[0], server)
        if model:
            config = barman_config.read_config(config.file, server, model)
        reading = config.readings[0]
        known = _known(reading, server)
        return [_find_value(reading, model, server, option, known) for option in options]
    except configparser.Error as error:
        raise UnknownFolders(f"section {server}: {error}") from error


def _find_value(config: ConfigParser, model: str, server: str, option: str, known: Dict[str, str]) -> str:
    """Return the value of the first section that has it. Raises configparser.Error.

    A server that has it without a value has none. A model that does changes nothing.
    """
    values = [barman_config.get(config, section, option, known) for section in (model, server, barman_config.GLOBAL)]
    if values[0] in UNSET:
        del values[0]
    value = next((value for value in values if value is not None), "")
    return "" if value in UNSET else value


def _find_backups(config: ConfigParser, server: str) -> str:
    """Return the folder of all that belongs to a server. Raises configparser.Error."""
    known = _known(config, server)
    return barman_config.get(config, server, BACKUPS, known) or FOLDERS[BACKUPS] % known


def _age(path: str) -> Optional[int]:
    """Return the seconds since a file was written, or None when that is not known."""
    try:
        return max(0, int(time.time() - os.stat(path).st_mtime))
    except OSError:
        return None


def _active_model(config: ConfigParser, server: str) -> str:
    """Return the name of the active model of a server, or an empty string.

    Raises configparser.Error.
    """
    folder = _find_backups(config, server)
    try:
        with open(os.path.join(folder, ACTIVE_MODEL), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


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


def open_log(config: Config) -> logging.Logger:
    """Return a logger into Barman's log, or into nothing if that cannot be written."""
    logger = logging.getLogger("walbasin.gate")
    logger.propagate = False
    logging.raiseExceptions = False
    handler: logging.Handler = logging.NullHandler()
    try:
        path, log_format, level = _log_settings(config)
        if path:
            handler = logging.FileHandler(os.path.abspath(path))
        handler.setFormatter(logging.Formatter(log_format))
        logger.setLevel(level)
    except (OSError, ValueError, configparser.Error):
        handler = logging.NullHandler()
    logger.addHandler(handler)
    return logger


def _log_settings(config: Config) -> Tuple[str, str, str]:
    """Return path, format and level of Barman's log. Raises configparser.Error.

    Each % of log_format is doubled for Barman before 3.10, and once more since then:
    only one of the two readings can be understood.
    """
    error: Optional[configparser.Error] = None
    for reading in config.readings:
        try:
            path, log_format, level = (
                barman_config.get(reading, barman_config.GLOBAL, option) or default
                for option, default in LOG_OPTIONS.items()
            )
        except configparser.Error as this:
            error = this
        else:
            return path, log_format, level.upper()
    assert error is not None  # there is at least one reading
    raise error
