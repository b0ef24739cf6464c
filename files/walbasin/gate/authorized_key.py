"""Tell whether the key of this connection is still let in.

sshd asks for a key once, and lets its connection live: who keeps one open could start
sessions on it long after the key was taken away.
"""

import binascii
import os
import re
import shlex
from typing import Dict, Iterable, Optional

# Where sshd looks by default, in the home of Barman's user.
FILES = ("~/.ssh/authorized_keys", "~/.ssh/authorized_keys2")
_COMMAND = re.compile(r'(?:^|,)command="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


def is_authorized(text: str, fingerprint: str, server: str) -> bool:
    """Return whether an authorized_keys lets a key fetch the WAL of a server.

    fingerprint: as `ssh-keygen -l` prints it, SHA256:...
    """
    lines = (line.strip() for line in text.splitlines())
    return any(_has_key(line, fingerprint) and server in _command_words(line) for line in lines if line[:1] != "#")


def _has_key(line: str, fingerprint: str) -> bool:
    # A key in base64 always begins so: with the length of its type's name.
    return any(_fingerprint(word) == fingerprint for word in line.split() if word.startswith("AAAA"))


def _fingerprint(key: str) -> str:
    import hashlib  # takes milliseconds, which a key without --key need not pay

    try:
        digest = hashlib.sha256(binascii.a2b_base64(key)).digest()
    except binascii.Error:
        return ""
    return "SHA256:" + binascii.b2a_base64(digest, newline=False).rstrip(b"=").decode()


def _command_words(line: str) -> Iterable[str]:
    """Return the words of the command that a line forces."""
    found = _COMMAND.search(line)
    try:
        return shlex.split(found.group(1).replace('\\"', '"')) if found else ()
    except ValueError:
        return ()


class AuthorizedKey:
    """Watch the line of one key. Without a fingerprint there is nothing to watch."""

    def __init__(self, fingerprint: str, server: str) -> None:
        self.fingerprint = fingerprint
        self.server = server
        self._seen: Optional[Dict[str, object]] = None
        self._was_authorized = False

    def is_authorized(self) -> bool:
        """Return whether the key is let in now. Reads the files when they change."""
        if not self.fingerprint:
            return True
        files = [os.path.expanduser(file) for file in FILES]
        seen = {file: _state(file) for file in files}
        if seen != self._seen:
            self._was_authorized = any(is_authorized(_read(file), self.fingerprint, self.server) for file in files)
            self._seen = seen
        return self._was_authorized


def _state(path: str) -> object:
    """Return what differs once a file was written or replaced."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: str) -> str:
    """Return the text of a file. What sshd could not read either is empty."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
