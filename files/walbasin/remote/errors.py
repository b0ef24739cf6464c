"""Name what can go wrong when a file is fetched.

Exception
├── FetchError             the request was not answered; the text is the cause
│   ├── HostUnreachable        Barman's host itself was not reached
│   ├── ConnectionLost         the connection ended in the middle; another may bring it
│   ├── ReadTimeout            a connection that was open fell silent
│   ├── RemoteError            the other side answered that it failed
│   └── SkippedDuringOutage    Barman could not be reached a moment ago
├── NotInArchive           Barman answered: it does not have the file
└── InvalidWal             what came is not the file (wal/segment.py)
    └── UnsupportedCompression     it cannot be decompressed here (wal/compression.py)
"""


class FetchError(Exception):
    """Say that a request was not answered; the text is the cause."""


class HostUnreachable(FetchError):
    """Say that Barman's host itself was not reached."""


class ConnectionLost(FetchError):
    """Say that the connection ended in the middle of an answer; another may bring it."""


class ReadTimeout(FetchError):
    """Say that an open connection was silent for too long."""


class RemoteError(FetchError):
    """Say that the other side answered, and failed."""


class SkippedDuringOutage(FetchError):
    """Say that nothing was tried: Barman could not be reached a moment ago."""


class NotInArchive(Exception):
    """Say that Barman answered: the file is not in the archive."""
