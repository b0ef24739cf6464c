"""Say which Barman host a passive node copies, and how long ago it last reached it."""

import re
import shlex
from typing import NamedTuple, Optional

# The first word of a line of a gate's list, and what stands there for "not known".
WORD, NOT_KNOWN = "passive", "-"
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}\Z")
# The options of ssh that have a value.
WITH_VALUE = "BbcDEeFIiJLlmOoPpQRSWw"


class PassiveNode(NamedTuple):
    """Hold what a Barman that copies another one's archive knows of that one.

    source: its host, as the passive node names it. age: seconds since it last answered
    the passive node. Both can be unknown: empty, and None.
    """

    source: str = ""
    age: Optional[int] = None

    def to_line(self) -> str:
        """Return the line of a gate's list.

        >>> PassiveNode("barman", 73).to_line()
        'passive barman 73'
        """
        return f"{WORD} {self.source or NOT_KNOWN} {NOT_KNOWN if self.age is None else self.age}"

    def describe(self) -> str:
        """Return whom it copies, and how fresh it is, in words.

        >>> PassiveNode("barman", 73).describe()
        'barman, which last answered it 73 s ago'
        """
        source = self.source or "another Barman"
        return source if self.age is None else f"{source}, which last answered it {self.age} s ago"

    @classmethod
    def from_line(cls, line: str) -> "Optional[PassiveNode]":
        """Return what a line says, or None when it says nothing of a passive node.

        A host is data: what is no name of a host, or no number, counts as unknown.

        >>> PassiveNode.from_line("passive barman -")
        PassiveNode(source='barman', age=None)
        """
        word, *rest = line.split(" ")
        if word != WORD:
            return None
        source, age = (*rest, "", "")[:2]
        return cls(source if HOST.match(source) else "", int(age) if re.match(r"[0-9]{1,12}\Z", age) else None)


def find_source(ssh_command: str) -> str:
    """Return the host in Barman's primary_ssh_command, or an empty string.

    >>> find_source("ssh -q -p 2222 barman@backup.example.org")
    'backup.example.org'
    """
    try:
        words = shlex.split(ssh_command)[1:]
    except ValueError:
        return ""
    while words and words[0].startswith("-"):
        option = words.pop(0)
        # A value may be glued to its option, or be the next word.
        first = next((at for at, letter in enumerate(option[1:], 2) if letter in WITH_VALUE), 0)
        if first == len(option):
            words = words[1:]
    destination = words[0] if words else ""
    if destination.startswith("ssh://"):
        destination = re.sub(r":[0-9]+\Z", "", destination[len("ssh://") :].rstrip("/"))
    host = destination.rpartition("@")[2]
    return host if HOST.match(host) else ""


def is_same_host(one: str, other: str) -> bool:
    """Return whether two names are one host's: the same, or one without its domain.

    >>> is_same_host("barman", "barman.example.org")
    True
    >>> is_same_host("barman.a.example.org", "barman.b.example.org")
    False
    """
    one, other = one.lower(), other.lower()
    short, long = sorted((one, other), key=len)
    return one == other or ("." not in short and bool(short) and long.startswith(f"{short}."))
