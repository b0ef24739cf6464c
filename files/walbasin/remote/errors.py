"""Name what can go wrong when a file is fetched.

Exception
├── FetchError             the request was not answered; the text is the cause
│   ├── HostUnreachable        Barman's host itself was not reached
│   ├── ConnectionLost         the connection ended in the middle; another may bring it
│   ├── ReadTimeout            a connection that was open fell silent, or trickled
│   ├── GivenUp                nobody waits for it: this server is to be promoted
│   ├── RemoteError            the other side answered that it failed
│   ├── SkippedDuringOutage    Barman could not be reached a moment ago
│   ├── Unconfirmed            the first host has none, another one was not heard
│   └── Unheard                other hosts have none, the first one was not heard
├── NotInArchive           Barman answered: it does not have the file
└── InvalidWal             what came is not the file (wal/segment.py)
    ├── ForeignWal                 it is of another cluster
    └── UnsupportedCompression     it cannot be decompressed here (wal/compression.py)
"""

from walbasin import policy


class FetchError(Exception):
    """Report that a request was not answered; the text is the cause."""

    # What has become of the request.
    outcome = policy.UNKNOWN


class HostUnreachable(FetchError):
    """Report that Barman's host itself was not reached."""


class ConnectionLost(FetchError):
    """Report that the connection ended in the middle; another may bring the file."""


class ReadTimeout(FetchError):
    """Report that an open connection was silent, or trickled, for too long."""


class GivenUp(FetchError):
    """Report that nobody waits for the file: this server is to be promoted."""

    def __init__(self) -> None:
        super().__init__("given up, because this server is to be promoted")


class RemoteError(FetchError):
    """Report that the other side answered, and failed."""


class SkippedDuringOutage(FetchError):
    """Report that nothing was tried: Barman could not be reached a moment ago."""

    outcome = policy.SKIPPED


class Unconfirmed(FetchError):
    """Report that the first host has no such file, and another one was not heard."""

    outcome = policy.UNCONFIRMED


class Unheard(FetchError):
    """Report that other hosts have no such file, and the first one was not heard."""

    outcome = policy.UNHEARD


class NotInArchive(Exception):
    """Report that Barman answered: the file is not in the archive.

    A text asks the call to look for a gap: PostgreSQL has asked for it for long.
    """


# After these the calls of the next seconds do not try: a promotion makes four of them.
OUTAGES = (GivenUp, HostUnreachable, ReadTimeout)
