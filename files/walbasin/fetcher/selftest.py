"""barman-wal-restore -t: every step of the way to Barman and back, with its time, and nothing delivered."""

import itertools
import os
import re
import tempfile
import time
from typing import List, Tuple

from walbasin.fetcher import status
from walbasin.fetcher.call import Job
from walbasin.fetcher.log import say
from walbasin.local import data_directory
from walbasin.remote import archive, ssh
from walbasin.remote.archive import Answer
from walbasin.remote.ssh import Session, Sessions, Unreachable
from walbasin.wal import segment, window
from walbasin.wal.getwal import DUMMY_WAL_NAME

# What ssh says at DEBUG1 as it gets there; in order.
STEPS = (
    ("connection", re.compile(r"Connection established")),
    ("host key", re.compile(r"is known and matches the (\S+) host key")),
    ("key", re.compile(r"Authenticated to .* using \"(\w+)\"")),
)
GATE = re.compile(r"^barman-wal-gate (\S+) serves (.*)$", re.MULTILINE)
# A standby's newest segment is not archived before the primary has finished it, and archiving takes its time.
NEWEST_TRIED = 16


class Failed(Exception):
    """The step that failed, and why."""


def run(job: Job) -> int:
    """0 when all is well; 2 after a line on stderr that names the cause."""
    started = time.time()
    trouble = gate = ""
    try:
        gate = _server(job)
        _segment(job)
        _spool(job)
    except (Failed, Unreachable, segment.Invalid, OSError) as error:
        trouble = str(error) or type(error).__name__
        say(f"test failed: {trouble}")
    status.note_test(job, started, trouble, gate)
    return 2 if trouble else 0


def _tell(step: str, seconds: float, text: str) -> None:
    print(f"ok  {step:<10}  {seconds:6.3f} s  {text}", flush=True)


def _server(job: Job) -> str:
    """Key, host key, gate or stock, and whether Barman knows the server. The gate's version, empty for stock Barman."""
    started = time.monotonic()
    seen: List[Tuple[str, float, str]] = []
    stderr = ""

    def listen(text: str) -> None:
        nonlocal stderr
        stderr += text
        for step, pattern in STEPS[len(seen) :]:
            match = pattern.search(stderr)
            if match:
                seen.append((step, time.monotonic() - started, match.group(match.lastindex or 0).lower()))

    answer = Answer()
    request = archive.of(job).asking(DUMMY_WAL_NAME, test=True, compression="", keep_compression=False)
    with Sessions() as sessions:
        sessions.start(Session(archive.of(job).remote, request, answer.add, answer.end, on_stderr=listen))
        ssh.run(sessions, lambda: False)
    for step, seconds, text in seen:
        _tell(step, seconds, text)
    if answer.error is not None:
        raise Failed(f"{answer.error}")
    said = ssh.printable(answer.output.decode("utf-8", "replace"))
    match = GATE.search(stderr)
    gate, servers = map(ssh.printable, match.groups()) if match else ("", "")
    kind = f"barman-wal-gate {gate}, for {servers}" if gate else "no gate: stock Barman"
    _tell("server", time.monotonic() - started, f"{said} ({kind})")
    return gate


def _segment(job: Job) -> None:
    """A real segment, fetched and verified."""
    names = _candidates(job)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            started = time.monotonic()
            fetched = os.path.join(folder, name)
            try:
                archive.fetch(archive.of(job), name, fetched)
            except ssh.Absent:
                continue
            size = os.path.getsize(fetched) // segment.MIB
            origin = f"system identifier {job.cluster.system_identifier}" if job.cluster else "origin not checked"
            _tell("segment", time.monotonic() - started, f"{name} fetched and verified: {size} MiB, {origin}")
            return
    tried = f"none of {names[-1]} to {names[0]} is there" if names else "there is no segment in pg_wal to ask for"
    raise Failed(f"no WAL could be fetched from the archive of {job.options.server_name}: {tried}")


def _candidates(job: Job) -> List[str]:
    """The segment that was asked for, or the newest that the cluster itself has, newest first."""
    if segment.is_segment(job.options.wal_name):
        return [job.options.wal_name]
    if job.cluster is None:
        raise Failed("give the name of a WAL segment, or run it in the data directory of the standby")
    newest = list(itertools.islice(data_directory.newest_segments(job.cluster), NEWEST_TRIED))
    # While the primary is quiet, pg_wal may have nothing but the one that is being written.
    size = data_directory.segment_size(job.cluster)
    return newest + window.before(newest[-1], NEWEST_TRIED - len(newest), size) if newest else []


def _spool(job: Job) -> None:
    started = time.monotonic()
    if job.cluster is None:
        return
    if job.spool is None:
        raise Failed(f"the spool in {job.options.spool_dir} cannot be used")
    kind = (
        "a hand-over is a rename"
        if job.spool.is_beside(job.cluster.path("pg_wal"))
        else "another filesystem, so it copies"
    )
    room = job.spool.room(data_directory.segment_size(job.cluster))
    _tell("spool", time.monotonic() - started, f"{job.options.spool_dir}: room for {room} segments, {kind}")
