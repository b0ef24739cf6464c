"""Read Barman's configuration files, as Barman does: 2.12 to 3.19.1 (config.py).

Only the sections that are asked for are parsed: a Barman host can have a thousand
servers, and each connection reads the configuration anew.
"""

import configparser
import glob
import os
import re
from configparser import ConfigParser
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

# Where Barman looks for its configuration, in its order.
CONFIG_FILES = ("~/.barman.conf", "/etc/barman.conf", "/etc/barman/barman.conf")
# What `barman config-update` writes, in barman_home. It has the last word.
UPDATED = ".barman.auto.conf"
# Barman's section for all servers.
GLOBAL = "barman"
# What configparser puts below every section.
DEFAULT = configparser.DEFAULTSECT

# The usual lines of a configuration, in which no section can hide from SECTION, and
# which configparser takes without an error: a comment or an empty line, an option, one
# that is indented, and one that goes on with the option before it.
NOTHING = r"[ \t]*(?:[#;].*)?\n"
OPTION = r"[A-Za-z_][^=:\n]*[=:].*\n"
INDENTED_OPTION = rf"[ \t]+{OPTION}"
CONTINUED = r"[ \t]+[^#;\s].*\n"
COMMENTS = re.compile(f"(?:{NOTHING})*")
SECTION = re.compile(rf"\[([^\]\n]+)\][^\]\n]*\n(?:{NOTHING}|{OPTION}(?:{NOTHING}|{CONTINUED})*|{INDENTED_OPTION})*")


class UnknownFolders(Exception):
    """Report that the folders of a server cannot be found; the text says why."""


class Config(NamedTuple):
    """Hold Barman's configuration, as far as it was asked for.

    file: the main one, for messages.
    readings: the newest Barman's, and the older ones'. One of the two is missing where
    that Barman does not start with these files.
    """

    file: str
    readings: Tuple[ConfigParser, ...]


def is_config(path: str, config: str) -> bool:
    """Return whether a path is the file that read_config(config) reads."""
    found = next(filter(os.path.exists, _candidates(config)), config)
    return bool(found) and os.path.realpath(path) == os.path.realpath(found)


def _candidates(path: str) -> List[str]:
    """Return the file that is named, else those where Barman looks, in its order."""
    return [path] if path else [os.path.expanduser(one) for one in CONFIG_FILES]


def read_config(path: str, *sections: str) -> Config:
    """Return these sections of Barman's configuration, and [barman].

    path: the main file; empty for the first of its usual places. Raises UnknownFolders.
    """
    candidates = _candidates(path)
    found = next(filter(os.path.exists, candidates), None)
    if found is None:
        raise UnknownFolders(f"there is no configuration in {' or '.join(candidates)}")
    files = _Files({GLOBAL, DEFAULT, *sections})
    readings: List[ConfigParser] = []
    errors: List[Exception] = []
    try:
        for add_file in (_add_apart, _add_below):
            try:
                readings.append(_read(found, files, add_file))
            except (configparser.InterpolationError, ValueError) as error:
                errors.append(error)
    except configparser.Error as error:
        raise UnknownFolders(f"{found}: {error}") from error
    if not readings:
        raise UnknownFolders(f"{found}: {errors[0]}") from errors[0]
    return Config(found, tuple(readings))


class _Files:
    """Read each file once, and keep what is wanted of it."""

    def __init__(self, sections: Set[str]) -> None:
        self._sections = sections
        self._texts: Dict[str, str] = {}
        self._included: Dict[str, List[str]] = {}

    def text(self, path: str) -> str:
        """Return what is wanted of a file; nothing of one that cannot be read.

        Raises configparser.Error when it is not in the locale's encoding.
        """
        if path not in self._texts:
            self._texts[path] = ""
            try:
                if os.path.isfile(path):
                    # Without an encoding, as configparser.
                    with open(path) as file:
                        self._texts[path] = select(file.read(), self._sections)
            except OSError:
                pass  # neither Barman nor configparser minds
            except UnicodeDecodeError as error:
                raise configparser.Error(f"{path}: {error}") from error
        return self._texts[path]

    def included(self, folder: str) -> List[str]:
        """Return the paths that Barman includes from a folder, in its order."""
        if folder not in self._included:
            paths = glob.glob(os.path.join(folder, "*.conf")) if os.path.isdir(folder) else []
            self._included[folder] = sorted(paths)
        return self._included[folder]


def select(text: str, sections: Set[str]) -> str:
    """Return the text of these sections, for configparser to read.

    Returns all of it when it has unusual lines: configparser knows what they mean.

    >>> select("[angus]\\na = 1\\n[chris]\\na = 2\\n", {"chris"})
    '[chris]\\na = 2\\n'
    """
    text = text if text.endswith("\n") else f"{text}\n"
    comments = COMMENTS.match(text)
    position = comments.end() if comments else 0
    wanted = []
    while position < len(text):
        section = SECTION.match(text, position)
        if section is None:
            return text
        if section.group(1) in sections:
            wanted.append(section.group())
        position = section.end()
    return "".join(wanted)


def _read(found: str, files: _Files, add_file: Callable[[ConfigParser, str, str], None]) -> ConfigParser:
    """Read the main file, those that it includes, and that of `barman config-update`.

    add_file: how a file is added to what was read before.
    Raises UnknownFolders, configparser.Error, ValueError.
    """
    config = ConfigParser(strict=False)
    add_file(config, files.text(found), found)
    if not config.has_section(GLOBAL):
        raise UnknownFolders(f"{found} cannot be read, or has no section [{GLOBAL}]")
    settings = config.items(GLOBAL, raw=True)
    folder = os.path.expanduser(get(config, GLOBAL, "configuration_files_directory") or "")
    updated = os.path.join(get(config, GLOBAL, "barman_home") or "", UPDATED)
    for path in [*(files.included(folder) if folder else []), updated]:
        text = files.text(path)
        if text:
            add_file(config, text, path)
            if config.items(GLOBAL, raw=True) != settings:
                raise ValueError(f"{path} changes section [{GLOBAL}], which Barman does not allow")
    return config


def _add_apart(config: ConfigParser, text: str, path: str) -> None:
    """Add a file as Barman 3.10 and later do.

    Its [DEFAULT] and its interpolations do not reach beyond it.
    """
    alone = ConfigParser(strict=False)
    alone.read_string(text, path)
    for section in alone.sections():
        if not config.has_section(section):
            config.add_section(section)
        for option, value in alone.items(section):
            config.set(section, option, value)


def _add_below(config: ConfigParser, text: str, path: str) -> None:
    """Add a file as Barman before 3.10 does: it is read into what is there."""
    config.read_string(text, path)


def get(config: ConfigParser, section: str, option: str, known: Optional[Dict[str, str]] = None) -> Optional[str]:
    """Return an option's value without its quotes, or None when it is not set.

    known: values for interpolation. Raises configparser.Error.
    """
    try:
        value = config.get(section, option, vars=known)
    except (configparser.NoSectionError, configparser.NoOptionError):
        return None
    return re.sub(r"""^(["'])(.*)\1$""", r"\2", value)
