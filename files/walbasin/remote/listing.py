"""Ask which files Barman's archive of one server holds."""

import re
import shlex
from typing import FrozenSet, Iterable, NamedTuple, Optional

from walbasin.local.debug import debug
from walbasin.remote.archive import Archive, RemoteOutput, run
from walbasin.remote.errors import NotInArchive, RemoteError
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.ssh import MOST_CONNECTIONS, Session
from walbasin.wal import passive, protocol
from walbasin.wal.passive import PassiveNode

# Bytes: the names of some millions of segments.
LONGEST = 64 << 20
# How a gate answers that serves us, and cannot list now. One that knows no lists
# refuses the command line, and a shell without a gate has another status.
GATE, REFUSED = "status 3: barman-wal-gate: ", "barman-wal-gate: refused"
# A line with the name of a file, and one that a passive node says of itself.
NAME = re.compile(rb"^(?:[0-9A-F]{24}|[0-9A-F]{8}\.history)$", re.MULTILINE)
PASSIVE = re.compile(rb"^passive .{1,300}$", re.MULTILINE)
# Seconds. show-servers connects to the primary, which may be why we are asked at all.
QUERY_LIMIT = 20


class Listing(NamedTuple):
    """Hold what an archive has, and whose archive it copies: None for nobody's.

    is_whole: False where only some names were asked for, one by one.
    """

    names: FrozenSet[str]
    passive_node: Optional[PassiveNode] = None
    is_whole: bool = True


class ServerQuery(NamedTuple):
    """Ask stock Barman for the folders of a server's WAL, and whether it is passive.

    Nothing else that Barman says of it (passwords, too) leaves its host.
    """

    server: str
    config: str = ""

    def command_line(self) -> str:
        config = f"--config {shlex.quote(self.config)} " if self.config else ""
        query = f"timeout {QUERY_LIMIT} barman {config}show-servers {shlex.quote(self.server)}"
        return f"{query} 2>/dev/null | grep -w -e {' -e '.join(ServerFolders._fields)}"

    def means_absent(self, status: int, _stderr: str) -> bool:
        return status == 1


class ServerFolders(NamedTuple):
    """Hold what Barman says of a server: folders, and how a passive node copies.

    A folder that it did not name is empty, and so is the command of a node of its own.
    """

    wals_directory: str = ""
    incoming_wals_directory: str = ""
    streaming_wals_directory: str = ""
    primary_ssh_command: str = ""


def parse_server(output: bytes) -> ServerFolders:
    """Return what Barman has answered to a ServerQuery.

    >>> parse_server(b"\\twals_directory: /var/lib/barman/angus/wals\\n").wals_directory
    '/var/lib/barman/angus/wals'
    """
    found = {}
    for line in output.decode("utf-8", "replace").splitlines():
        name, _, value = line.strip().partition(": ")
        is_folder = value.startswith("/") and value.isprintable()
        is_command = name == "primary_ssh_command" and value not in ("", "None")
        if name in ServerFolders._fields and (is_folder or is_command):
            found[name] = value
    return ServerFolders(**found)


class FindNames(NamedTuple):
    """List the names of the files in a stock Barman's folders. wals/ comes last."""

    folders: ServerFolders

    def command_line(self) -> str:
        wals, *others = map(shlex.quote, filter(None, self.folders[:3]))
        find = "find -L {} -maxdepth 2 -type f -printf '%f\\n'"
        first = f"{find.format(' '.join(others))} 2>/dev/null; " if others else ""
        return f"{first}{find.format(wals)}"

    def means_absent(self, _status: int, _stderr: str) -> bool:
        return False


def ask_gate(archive: Archive) -> Listing:
    """Return what the archive holds, as a gate says. Raises FetchError, InvalidWal."""
    query = protocol.ListQuery(archive.request.server, archive.request.config)
    return parse_listing(run(archive, query, LONGEST))


def list_archive(archive: Archive, probes: Iterable[str]) -> Listing:
    """Return what the archive holds. Raises FetchError, InvalidWal.

    probes: of these, at least, it is found out even where the host lists nothing.
    """
    server, config = archive.request.server, archive.request.config
    try:
        return ask_gate(archive)
    except RemoteError as error:
        if GATE in str(error) and REFUSED not in str(error):
            raise
        debug(f"no gate lists the archive: {error}")
    folders = ServerFolders()
    try:
        folders = parse_server(run(archive, ServerQuery(server, config)))
    except (RemoteError, NotInArchive) as error:
        debug(f"Barman does not tell its folders: {error}")
    command = folders.primary_ssh_command
    node = PassiveNode(passive.find_source(command)) if command else None
    if folders.wals_directory:
        try:
            return parse_listing(run(archive, FindNames(folders), LONGEST))._replace(passive_node=node)
        except RemoteError as error:
            debug(f"the folders cannot be listed: {error}")
    return Listing(_held(archive, probes), node, is_whole=False)


def parse_listing(output: bytes) -> Listing:
    """Return the names in the output of a ListQuery, or of FindNames.

    >>> parse_listing(b"00000002.history\\nWelcome!\\n")
    Listing(names=frozenset({'00000002.history'}), passive_node=None, is_whole=True)
    """
    found = PASSIVE.search(output)
    node = PassiveNode.from_line(found.group().decode("ascii", "replace")) if found else None
    return Listing(frozenset(name.decode() for name in NAME.findall(output)), node)


def _held(archive: Archive, names: Iterable[str]) -> FrozenSet[str]:
    """Return which of these files the archive holds. Raises FetchError.

    Each is a session with `barman get-wal`, which is all that some keys may do.
    """
    outputs = []
    waiting = list(names)
    with EventLoop() as loop:
        while waiting or len(loop):
            while waiting and len(loop) < MOST_CONNECTIONS:
                output = RemoteOutput()
                outputs.append(output)
                loop.add(Session(archive.remote, archive.peek_for(waiting.pop(0), 1), output.add, output.end))
            loop.run_once()
    found = frozenset(name for output in outputs for name in output.names())
    if not found and any(output.error for output in outputs):
        raise next(output.error for output in outputs if output.error)
    return found
