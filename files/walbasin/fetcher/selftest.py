"""Test every step of the way to Barman and back, with its time, and deliver nothing.

That is barman-wal-restore -t.
"""

import itertools
import os
import re
import tempfile
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from walbasin import policy
from walbasin.fetcher import absence, gap, status, timeline_guard
from walbasin.fetcher.call import Call
from walbasin.fetcher.log import describe, log
from walbasin.fetcher.status import LastTest
from walbasin.local import data_directory, running_server
from walbasin.local.running_server import NotAsked
from walbasin.remote import archive, gate_fetch, ssh
from walbasin.remote.archive import Archive, RemoteOutput
from walbasin.remote.errors import OUTAGES, FetchError, NotInArchive
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.gate_connection import NoGate
from walbasin.remote.ssh import Session
from walbasin.wal import segment, window
from walbasin.wal.getwal import DUMMY_WAL_NAME

# What ssh says at DEBUG1 as it gets there; in order.
STEPS = (
    ("connection", re.compile(r"Connection established")),
    ("host key", re.compile(r"is known and matches the (\S+) host key")),
    ("key", re.compile(r"Authenticated to .* using \"(\w+)\"")),
)
# What the gate says to --test on stderr.
GATE = re.compile(r"barman-wal-gate (\S+) serves (.*)$")
# Characters that are kept of a line on stderr.
LONGEST_LINE = 64 * 1024
# Segments that are tried. A standby's newest is not archived before the primary has
# finished it, and archiving takes its time.
NEWEST_TRIED = 16


class StepFailed(Exception):
    """Say which step failed, and why."""


class LastingFailure(StepFailed):
    """Say what a segment that is restored later does not disprove."""


def run(call: Call) -> int:
    """Return 0 when all is well; 2 after a line on stderr that names the cause.

    1: what was tested is well, but the server could not be asked what it uses.
    """
    started = time.time()
    error = gate = unasked = ""
    is_lasting = False
    hosts: Dict[str, str] = {}
    try:
        gate = _test_hosts(call, hosts)
        _test_spool(call)
        _test_archive(call)
        unasked = _test_setting(call)
    except (StepFailed, FetchError, NotInArchive, segment.InvalidWal, OSError) as failure:
        error = describe(failure)
        log(f"test failed: {error}")
        is_lasting = isinstance(failure, LastingFailure)
    test = LastTest(
        time=started,
        seconds=time.time() - started,
        error=error,
        gate=gate,
        unasked=unasked,
        is_lasting=is_lasting,
        hosts=hosts,
    )
    status.save_test(call, test)
    return 2 if error else 1 if unasked else 0


def _test_hosts(call: Call, hosts: Dict[str, str]) -> str:
    """Test the way to each Barman host. Return the version of the first one's gate.

    hosts: gets each of several hosts, and why it does not work, or an empty string.
    Raises what the test of the first one did.
    """
    first, *others = call.archives()
    if not others:
        return _test_host(call, first)
    gate, failures = "", []
    for each in (first, *others):
        host, started = each.remote.host, time.monotonic()
        _print_note("host", host)
        try:
            found = _test_host(call, each)
        except (StepFailed, FetchError, NotInArchive, segment.InvalidWal, OSError) as failure:
            hosts[host] = describe(failure)
            failures.append(failure)
            if isinstance(failure.__cause__, OUTAGES):  # the steps to come need not wait for it
                call.host_memory().note_outage(host, hosts[host])
            if each is not first:
                log(f"test: {host} does not work, so it could not stand in for the others: {hosts[host]}")
            _print_note("host", f"{host} does not work")
        else:
            hosts[host] = ""
            call.host_memory().note_answer(host)
            gate = found if each is first else gate
            _print_step("host", time.monotonic() - started, host)
    if hosts[first.remote.host]:
        raise failures[0]
    return gate


def _test_host(call: Call, source: Archive) -> str:
    """Test the way to one Barman host. Return the version of its gate.

    Raises StepFailed, FetchError, NotInArchive, InvalidWal, OSError.
    """
    server = _test_server(source)
    _test_segment(call, source, server)
    return server.gate


def _print_step(step: str, seconds: float, text: str) -> None:
    print(f"ok  {step:<10}  {seconds:6.3f} s  {text}", flush=True)


def _print_note(step: str, text: str) -> None:
    """Print what is no failure, but worth knowing."""
    print(f"--  {step:<10}  {text}", flush=True)


class StderrReader:
    """Find in the lines on stderr what matters, each line once.

    steps: those that ssh has done, with the seconds since `started`, and a word. gate:
    its version and the servers that it serves; empty where no gate speaks.
    """

    def __init__(self, started: float) -> None:
        self.steps: List[Tuple[str, float, str]] = []
        self.gate = ("", "")
        self._started = started
        self._rest = ""

    def add(self, text: str) -> None:
        """Take what has come."""
        *lines, rest = (self._rest + text).split("\n")
        # A host may talk without end.
        self._rest = rest[-LONGEST_LINE:]
        for line in lines:
            self._read(line)

    def _read(self, line: str) -> None:
        for step, pattern in STEPS[len(self.steps) :]:
            match = pattern.search(line)
            if match:
                word = match.group(match.lastindex or 0).lower()
                self.steps.append((step, time.monotonic() - self._started, word))
        match = GATE.match(line)
        if match:
            self.gate = (match.group(1), match.group(2))


class ServerAnswer(NamedTuple):
    """Hold what came of `barman get-wal --test`.

    gate: the version of the gate, empty for stock Barman. error: why Barman failed,
    after the key was let in.
    """

    gate: str
    error: str = ""


def _test_server(source: Archive) -> ServerAnswer:
    """Test key, host key, gate or stock, and whether Barman knows the server."""
    started = time.monotonic()
    stderr = StderrReader(started)
    output = RemoteOutput()
    request = source.request_for(DUMMY_WAL_NAME, test=True, compression="", keep_compression=False)
    with EventLoop() as loop:
        loop.add(Session(source.remote, request, output.add, output.end, on_stderr=stderr.add))
        loop.run_until(lambda: False)
    stderr.add("\n")
    for step, seconds, text in stderr.steps:
        _print_step(step, seconds, text)
    gate, servers = map(ssh.printable, stderr.gate)
    if output.error is not None:
        if not gate:
            raise StepFailed(f"{output.error}") from output.error
        return ServerAnswer(gate, f"{output.error}")
    answer = ssh.printable(output.content.decode("utf-8", "replace"))
    kind = f"barman-wal-gate {gate}, for {servers}" if gate else "no gate: stock Barman"
    _print_step("server", time.monotonic() - started, f"{answer} ({kind})")
    return ServerAnswer(gate)


def _test_segment(call: Call, source: Archive, server: ServerAnswer) -> None:
    """Fetch and verify a real segment, by the way that recovery takes.

    With -p and a gate that is a connection to the gate. `barman get-wal` is the other
    way: one that does not work is no failure, as long as the first one does.
    """
    folder = call.options.spool_dir if call.spool else None
    if server.gate and call.options.parallel > 1:
        try:
            _fetch_segment(call, folder, lambda name, path: gate_fetch.fetch(source, name, path, folder))
        except (NoGate, FetchError) as error:
            if server.error:
                raise StepFailed(server.error) from error
            _print_note("gate", f"it does not serve, so each segment comes by barman get-wal, more slowly: {error}")
        else:
            if server.error:
                _print_note("server", f"{server.error}: what only Barman can decompress would not come")
            return
    if server.error:
        raise StepFailed(server.error)
    _fetch_segment(call, folder, lambda name, path: archive.fetch(source, name, path))


def _fetch_segment(call: Call, folder: Optional[str], fetch: Callable[[str, str], None]) -> None:
    names = _candidates(call)
    # The playbook that removes all takes away what a killed test has left: by its name.
    own = f":{call.options.server_name}"
    with tempfile.TemporaryDirectory(prefix="test.", suffix=own, dir=folder) as temporary:
        for name in names:
            started = time.monotonic()
            fetched = os.path.join(temporary, name)
            try:
                fetch(name, fetched)
            except NotInArchive:
                continue
            size = os.path.getsize(fetched) // segment.MIB
            origin = f"system identifier {call.cluster.system_identifier}" if call.cluster else "origin not checked"
            seconds = time.monotonic() - started
            _print_step("segment", seconds, f"{name} fetched and verified: {size} MiB, {origin}")
            return
    tried = f"none of {names[-1]} to {names[0]} is there" if names else "there is no segment in pg_wal to ask for"
    raise StepFailed(f"no WAL could be fetched from the archive of {call.options.server_name}: {tried}")


def _test_archive(call: Call) -> None:
    """Look whether the archive has all that this standby will want."""
    if call.cluster is None:
        return
    started, began = time.monotonic(), time.time()
    end = absence.look_to_the_end(call)
    for text in end.copies:
        _print_note("copy", text)
    if end.abandoned.timeline and timeline_guard.is_on(call):
        _print_note("timeline", f"the archive holds {end.abandoned.describe()}: it is kept from PostgreSQL")
    if end.error:
        # Whether the standby has passed a gap since, the status knows by itself.
        found = gap.load(call.spool) if call.spool else gap.Gap()
        kind = StepFailed if found.missing and found.time >= began else LastingFailure
        raise kind(f"the archive of {call.options.server_name} {end.error}")
    _print_step("archive", time.monotonic() - started, "no gap from here to its end")


def _test_setting(call: Call) -> str:
    """Test that the server uses such a command, and nothing stops it before its end.

    Returns why the server could not be asked, or an empty string.
    """
    if call.cluster is None or call.mode != policy.STANDBY:
        return ""
    started = time.monotonic()
    try:
        if running_server.is_primary(call.cluster):
            _print_note("setting", "the server is a primary, which needs no restore_command")
            return ""
        effective = running_server.restore_command(call.cluster)
    except NotAsked as reason:
        _print_note("setting", f"the server could not be asked which restore_command it uses: {reason}")
        return str(reason)
    error = running_server.explain_targets(call.cluster)
    if effective is not None:
        error = running_server.explain_command(effective, call.options.server_name) or error
    if error:
        raise LastingFailure(f"the server in {call.cluster.path} would not recover from Barman: {error}")
    if effective is not None:
        _print_step("setting", time.monotonic() - started, "the running server uses barman-wal-restore for this server")
    return ""


def _candidates(call: Call) -> List[str]:
    """Return the segment that was asked for, or the newest that the cluster has."""
    if segment.is_segment_name(call.options.wal_name):
        return [call.options.wal_name]
    if call.cluster is None:
        raise StepFailed("give the name of a WAL segment, or run it in the data directory of the standby")
    newest = list(itertools.islice(data_directory.newest_segments(call.cluster), NEWEST_TRIED))
    if not newest:
        return []
    # Try those before as well: while the primary is quiet, pg_wal may have nothing but
    # the segment that is being written.
    return newest + window.previous_segments(newest[-1], NEWEST_TRIED - len(newest), call.cluster.segment_size)


def _test_spool(call: Call) -> None:
    started = time.monotonic()
    if call.cluster is None:
        return
    if call.spool is None and not os.path.lexists(call.options.spool_dir):
        parent = os.path.dirname(os.path.abspath(call.options.spool_dir))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StepFailed(f"the spool {call.options.spool_dir} is missing, and we cannot make it in {parent}")
        _print_note("spool", f"{call.options.spool_dir} is missing: the first call of restore_command makes it")
        return
    if call.spool is None:
        raise StepFailed(f"the spool in {call.options.spool_dir} cannot be used")
    error = running_server.explain_spool(call.cluster, call.options.spool_dir)
    if error:
        raise StepFailed(f"each segment would be slow: {error}")
    is_rename = call.spool.is_same_filesystem(call.cluster.file("pg_wal"))
    kind = "delivery is a rename" if is_rename else "another filesystem, so delivery is a copy"
    free = call.spool.free_segments(call.cluster.segment_size)
    seconds = time.monotonic() - started
    _print_step("spool", seconds, f"{call.options.spool_dir}: room for {free} segments, {kind}")
