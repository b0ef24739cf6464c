"""Let Barman's restore write into the named folders, and do nothing else.

The forced command of the temporary key with which a Barman host copies a backup to a
standby. Arguments: the folder of the new data directory, then those of tablespaces; all
are absolute and have no link in them. Runs as PostgreSQL's user.

Barman 2.19 to 3.19 sends small commands (test, mkdir, touch) and rsync. Each is taken
apart here and started without a shell; each path has to lie in one of the folders.
"""

import os
import re
import shlex
import sys
from typing import Callable, Dict, List, NoReturn, Sequence, Tuple

# Neither a status of Barman's commands nor one of ssh's own.
REFUSED = 120
# Bytes: rsync sends a handful of words.
LONGEST_WORDS = 1 << 16
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"

# What rsync's client may ask of this end. Not among them: links, devices and owners (l,
# D, o, g), which a copy of a data directory does not need, and other folders to read
# from or to write to. The letters behind "e." are what the client understands.
SHORT_OPTIONS = re.compile(r"-[bcIiKLnpRrstuvWz]*(?:e[0-9.]*\.[A-Za-z]*)?")
LONG_OPTIONS = re.compile(
    r"--(?:checksum-choice=[a-z0-9:,]+|compress-choice=[a-z0-9]+|compress-level=[0-9]+|bwlimit=[0-9.KMG]+"
    r"|delete|delete-(?:before|during|delay|after|excluded)|dirs|existing|files-from=-|from0|ignore-existing"
    r"|ignore-missing-args|inplace|list-only|log-format=[%A-Za-z0-9]+|new-compress|no-[a-zA-Z]+|numeric-ids"
    r"|partial|size-only|stats|timeout=[0-9]+|whole-file)"
)


class Refused(Exception):
    """Report that a command is none of Barman's restore; the text says why."""


class Folders:
    """Hold the folders that may be written to."""

    def __init__(self, data: str, tablespaces: Sequence[str]) -> None:
        self.data = data
        self.tablespaces = tablespaces

    def holds(self, path: str) -> bool:
        """Tell whether a path is one of the folders or lies in one.

        A link counts as what it leads to: the links that are made here lead to
        tablespaces.
        """
        if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
            return False
        real = os.path.realpath(path)
        return any(real == each or real.startswith(each + "/") for each in (self.data, *self.tablespaces))

    def holds_entry(self, path: str) -> bool:
        """Tell whether a name is in one of the folders, whatever it leads to."""
        folder, name = os.path.split(path)
        return path in {self.data, *self.tablespaces} or (name not in {"", ".", ".."} and self.holds(folder))


def check_file(folders: Folders, words: List[str]) -> bool:
    """Tell whether all of a command's words but the options are in the folders."""
    return all(map(folders.holds, words))


def check_test(folders: Folders, words: List[str]) -> bool:
    """Tell whether this is `test -e FILE`, maybe with `-o -L FILE` behind it."""
    is_pair = words[2:3] == ["-o"] and words[3:4] == ["-L"] and words[4:] == words[1:2]
    is_short = len(words) == 2
    return words[:1] in (["-e"], ["-d"], ["-r"]) and (is_short or is_pair) and folders.holds_entry(words[1])


def check_mkdir(folders: Folders, words: List[str]) -> bool:
    """Tell whether this is `mkdir -p FOLDER`, maybe with `-m 700` behind it."""
    return words[:1] == ["-p"] and words[2:] in ([], ["-m", "700"]) and check_file(folders, words[1:2])


def check_remove(folders: Folders, words: List[str]) -> bool:
    """Tell whether this removes a test file or the link of a tablespace."""
    path = words[-1] if words else ""
    is_link = words == ["-fr", path] and os.path.dirname(path) == os.path.join(folders.data, "pg_tblspc")
    is_test = words == [path] and os.path.basename(path) == ".barman_write_check"
    return (is_link or is_test) and folders.holds(os.path.dirname(path))


def check_link(folders: Folders, words: List[str]) -> bool:
    """Tell whether this is the link of a tablespace, in pg_tblspc."""
    if len(words) != 3 or words[0] != "-s":
        return False
    return words[1] in folders.tablespaces and os.path.dirname(words[2]) == os.path.join(folders.data, "pg_tblspc")


def check_move(folders: Folders, words: List[str]) -> bool:
    """Tell whether this gives the manifest another name."""
    manifest = os.path.join(folders.data, "backup_manifest")
    return (
        len(words) == 2 and words[0] == manifest and re.fullmatch(r"\.[0-9T]+", words[1][len(manifest) :]) is not None
    )


CHECKS: Dict[str, Callable[[Folders, List[str]], bool]] = {
    "true": lambda _, words: not words,
    "ls": lambda folders, words: len(words) == 1 and check_file(folders, words),
    "cat": lambda folders, words: len(words) == 1 and check_file(folders, words),
    "touch": lambda folders, words: len(words) == 1 and check_file(folders, [os.path.dirname(words[0])]),
    "test": check_test,
    "mkdir": check_mkdir,
    "rm": check_remove,
    "ln": check_link,
    "mv": check_move,
}


def parse(command_line: str, folders: Folders) -> List[str]:
    """Return the words of one of Barman's commands. Raises Refused."""
    try:
        words = shlex.split(command_line)
    except ValueError:
        words = []
    if words[:2] == ["rsync", "--server"]:
        return words
    check = CHECKS.get(words[0]) if words else None
    if check is None or not check(folders, words[1:]):
        raise Refused(f"not a command of Barman's restore into {folders.data}")
    return words


def complete_rsync(words: List[str], sent: List[str], folders: Folders) -> List[str]:
    """Return rsync's command line, with the words that came on stdin. Raises Refused.

    words: from the ssh command. With -s (Barman's choice) the paths are not among them.
    """
    options, paths = split_rsync([*words[2:], *sent])
    wrong = [
        each
        for each in options
        if each != "--sender" and not SHORT_OPTIONS.fullmatch(each) and not LONG_OPTIONS.fullmatch(each)
    ]
    if wrong:
        raise Refused(f"rsync may not be called with {wrong[0]!r}")
    if len(paths) != 2 or paths[0] != "." or not folders.holds(paths[1]):
        raise Refused(f"rsync may not be called for {' '.join(paths)!r}")
    return ["rsync", "--server", *map(without_secluded, options), *paths]


def split_rsync(words: List[str]) -> Tuple[List[str], List[str]]:
    """Return the options and the paths of rsync's words.

    >>> split_rsync(["-re.i", "--inplace", ".", "/data"])
    (['-re.i', '--inplace'], ['.', '/data'])
    """
    count = next((at for at, word in enumerate(words) if not word.startswith("-")), len(words))
    return words[:count], words[count:]


def is_secluded(words: List[str]) -> bool:
    """Tell whether rsync's client sends its other words on stdin (-s)."""
    return any(re.match(r"-[A-Za-z]*?s", word.partition("e.")[0]) for word in words[2:] if not word.startswith("--"))


def without_secluded(option: str) -> str:
    """Return a short option without its s.

    >>> without_secluded("-sKtpre.iLs")
    '-Ktpre.iLs'
    """
    if option.startswith("--"):
        return option
    letters, dot, rest = option.partition("e.")
    return letters.replace("s", "") + dot + rest


def read_words(descriptor: int) -> List[str]:
    """Return the words that rsync's client sends, and take nothing behind them.

    Each ends with a NUL, and the last one is empty. Raises Refused.
    """
    data = b""
    while not data.endswith(b"\0\0"):
        byte = os.read(descriptor, 1)
        if not byte or len(data) > LONGEST_WORDS:
            raise Refused("rsync has sent no words")
        data += byte
    return [word.decode("utf-8", "surrogateescape") for word in data[:-2].split(b"\0")[1:]]


def run(words: List[str]) -> NoReturn:
    """Become a command. Raises OSError."""
    os.execvpe(words[0], words, {"PATH": PROGRAMS, "LC_ALL": "C.UTF-8"})


def main(data: str, *tablespaces: str) -> None:
    """Do what the ssh command asks, or refuse it."""
    folders = Folders(data, tablespaces)
    command_line = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    try:
        words = parse(command_line, folders)
        if words[0] == "rsync":
            words = complete_rsync(words, read_words(0) if is_secluded(words) else [], folders)
        run(words)
    except Refused as reason:
        print(f"this key restores a backup, and no more: {reason}: {command_line[:200]!r}", file=sys.stderr)
    except OSError as error:
        print(f"{command_line[:200]!r}: {error.strerror}", file=sys.stderr)
    sys.exit(REFUSED)


if __name__ == "__main__":
    main(*sys.argv[1:])
