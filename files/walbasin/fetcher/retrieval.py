"""Fetch from Barman what is not in the spool, until there is a verdict."""

import os
import time
from typing import Optional, Tuple

from walbasin import policy
from walbasin.fetcher import exit_status
from walbasin.fetcher.call import Call
from walbasin.fetcher.exit_status import Verdict
from walbasin.fetcher.foreground import ForegroundPrefetch
from walbasin.fetcher.log import ASKS_AGAIN, log, log_absent
from walbasin.local import data_directory, handover, ipc
from walbasin.local.data_directory import DataDirectory
from walbasin.local.debug import debug
from walbasin.local.ipc import Reply
from walbasin.local.spool import Spool
from walbasin.prefetch import process
from walbasin.prefetch.process import PrefetchConfig
from walbasin.remote import archive
from walbasin.remote.errors import (
    FetchError,
    HostUnreachable,
    NotInArchive,
    RemoteError,
    SkippedDuringOutage,
)
from walbasin.wal import segment, window
from walbasin.wal.compression import UnsupportedCompression

# Seconds for which an outage is remembered. A promotion asks four times: with Barman
# dead only the first of them waits.
OUTAGE_SECONDS = 15
# Seconds between two looks for a promotion.
STEP = 0.2
# How often, and how many seconds apart, to try for a prefetch process: one that makes
# room for us needs a moment.
TRIES, TRY_STEP = 40, 0.05


class PrefetchUnavailable(Exception):
    """Report that the prefetch process cannot do it; the text may be empty."""


def run(call: Call, reply: Optional[Reply] = None) -> int:
    """Deliver the requested file, or say why not. Return the exit status.

    reply: what the prefetch process has replied already.
    """
    started = time.monotonic()
    attempt = 0
    while True:
        outcome, detail = _attempt(call, reply)
        time_left = call.options.retry - (time.monotonic() - started)
        verdict = exit_status.decide(outcome, call.mode, call.options.sleep, attempt, time_left)
        debug(f"{call.options.wal_name}: attempt {attempt}: {outcome} {detail}: {verdict}")
        _report(call, outcome, detail, verdict)
        _pause(verdict.pause, call)
        if verdict.status is not None:
            return verdict.status
        reply = None
        attempt += 1


def _attempt(call: Call, reply: Optional[Reply]) -> Tuple[str, str]:
    """Return the outcome (policy's) of one attempt, and its cause in words."""
    try:
        _fetch(call, reply)
        return policy.DELIVERED, ""
    except NotInArchive:
        return _explain_absence(call)
    except SkippedDuringOutage as error:
        return policy.SKIPPED, str(error)
    except FetchError as error:
        return policy.UNKNOWN, str(error)
    except segment.InvalidWal as error:
        return policy.INVALID, str(error)
    except OSError as error:
        return policy.LOCAL_ERROR, f"cannot write {call.options.wal_dest}: {error.strerror}"


def _fetch(call: Call, reply: Optional[Reply]) -> None:
    """Deliver the file from Barman, by the way that is open to this call.

    Raises NotInArchive, FetchError, InvalidWal, and OSError when the destination cannot
    be written.
    """
    options, spool, cluster = call.options, call.spool, call.cluster
    if spool is not None and reply is None and call.mode == policy.STANDBY:
        age = spool.outage_age()
        if age is not None and age < OUTAGE_SECONDS:
            raise SkippedDuringOutage(f"skipped, {options.barman_host} could not be reached {age:.0f} s ago")
    try:
        if spool is None or cluster is None or options.parallel < 2:
            _fetch_directly(call, None)
        elif process.may_run(cluster):
            _fetch_through_prefetch(call, spool, cluster, reply)
        else:
            _fetch_with_foreground_prefetch(call, spool, cluster)
    except HostUnreachable:
        if spool is not None:
            spool.record_outage()
        raise
    if spool is not None:
        spool.clear_outage()


def _fetch_through_prefetch(call: Call, spool: Spool, cluster: DataDirectory, reply: Optional[Reply]) -> None:
    """Have the prefetch process fetch the file; fetch it here where that fails."""
    name, options = call.options.wal_name, call.options
    config = PrefetchConfig(
        spool=spool,
        cluster=cluster,
        archive=call.archive(),
        jobs=options.parallel,
        fingerprint=options.fingerprint,
    )
    try:
        _deliver_reply(call, spool, reply or _request_from_prefetch(config, name))
        return
    except PrefetchUnavailable as reason:
        if str(reason):
            log(f"{name}: {reason}; fetching without it")
    except NotInArchive:
        if not (options.partial and segment.is_segment_name(name)):
            raise
    _fetch_directly(call, None)


def _request_from_prefetch(config: PrefetchConfig, name: str) -> Reply:
    """Return the prefetch process's reply; start the process where there is none.

    Raises PrefetchUnavailable.
    """
    end = time.monotonic() + ipc.SILENCE_LIMIT
    for _ in range(TRIES):
        if time.monotonic() > end:
            break
        reply = config.spool.request_file(name, config.fingerprint)
        if reply is not None:
            return reply
        try:
            if not process.start(config):
                time.sleep(TRY_STEP)
        except OSError as error:
            raise PrefetchUnavailable(f"no prefetch process: {error.strerror}") from error
    raise PrefetchUnavailable("the prefetch process does not answer")


def _deliver_reply(call: Call, spool: Spool, reply: Reply) -> None:
    """Do what a reply says: deliver the file, or raise what `_fetch` would.

    Raises PrefetchUnavailable as well.
    """
    if reply.outcome == policy.ABSENT:
        raise NotInArchive(call.options.wal_name)
    if reply.outcome == policy.UNKNOWN:
        raise (HostUnreachable if reply.is_outage else RemoteError)(reply.detail)
    if reply.outcome != policy.DELIVERED:  # the direct way has a second look at it
        raise PrefetchUnavailable(reply.detail if reply.outcome == policy.LOCAL_ERROR else "")
    if reply.detail:
        log(f"{call.options.wal_name}: {reply.detail}")
    if not spool.deliver(call.options.wal_name, call.options.wal_dest):
        raise PrefetchUnavailable


def _fetch_with_foreground_prefetch(call: Call, spool: Spool, cluster: DataDirectory) -> None:
    """Fetch what comes next beside the requested file, before this call ends.

    That is the way where no prefetch process may run.
    """
    name, jobs = call.options.wal_name, call.options.parallel
    prefetch = None
    if segment.is_segment_name(name) and spool.lock():
        prefetch = ForegroundPrefetch(spool, call.archive(), name, jobs, cluster.segment_size)
        if spool.register(cluster):
            log(
                f"{name}: process 1 is the postmaster, so there is no prefetch process; "
                f"-p {jobs} fetches as many segments at a time before it answers"
            )
    _fetch_directly(call, prefetch)
    if prefetch is not None and prefetch.errors:
        log(f"{name}: delivered, but what comes after it was not prefetched: {prefetch.errors[0]}")


def _fetch_directly(call: Call, prefetch: Optional[ForegroundPrefetch]) -> None:
    name, destination, source = call.options.wal_name, call.options.wal_dest, call.archive()
    try:
        archive.fetch(source, name, destination, beside=prefetch.start if prefetch else None)
    except UnsupportedCompression:
        if not call.options.keep_compression:
            raise
        plain = source._replace(request=source.request._replace(keep_compression=False))
        archive.fetch(plain, name, destination)
    except NotInArchive:
        if not (call.options.partial and segment.is_segment_name(name)):
            raise
        archive.fetch(source, name, destination, partial=True)


def _explain_absence(call: Call) -> Tuple[str, str]:
    """Return the outcome for a file that the archive does not have, and what follows.

    Do not report a gap as "not in the archive" in a point-in-time recovery: that would
    end the recovery there.
    """
    name = call.options.wal_name
    if call.mode == policy.STANDBY:
        return policy.ABSENT, ASKS_AGAIN
    if call.cluster is not None and segment.is_segment_name(name):
        if name in data_directory.newest_segments(call.cluster):
            return policy.ABSENT, "PostgreSQL has it in pg_wal"  # and looks there next
        try:
            later = _find_later(call, call.cluster)
        except (FetchError, segment.InvalidWal) as error:
            return policy.UNKNOWN, f"not in the archive, and whether it is a gap cannot be found out: {error}"
        if later is not None:
            return policy.GAP, f"the archive has a gap here: it holds {later}"
    return policy.ABSENT, "recovery ends here"


def _find_later(call: Call, cluster: DataDirectory) -> Optional[str]:
    """Return a segment that the archive holds behind the missing one, or None.

    Raises FetchError, InvalidWal.
    """
    name, size, source = call.options.wal_name, cluster.segment_size, call.archive()
    timeline, number = segment.timeline(name), segment.segment_number(name, size)
    histories = [
        window.timeline_starts(history, switches, size) for history, switches in data_directory.read_histories(cluster)
    ]
    # It may belong to a parent of this timeline, and will be asked for there.
    if any(number < starts.get(timeline, 0) for starts in histories):
        return None
    for names in window.gap_probes(name, size, histories):
        later = archive.first_held(source, names)
        if later is not None:
            return later if number >= archive.switch_segment(source, name, size) else None
    return None


def _report(call: Call, outcome: str, detail: str, verdict: Verdict) -> None:
    """Write what happened to PostgreSQL's log, and what happens next."""
    name, server = call.options.wal_name, call.options.server_name
    if outcome == policy.DELIVERED:
        return
    if outcome == policy.ABSENT:
        log_absent(name, server, detail)
        return
    if outcome == policy.INVALID:
        detail = f"what came from {call.options.barman_host} was refused: {detail}"
    if segment.is_history_name(name) and outcome != policy.LOCAL_ERROR:
        detail += f"; timeline {segment.timeline(name)} may be taken already, and was not looked up"
    if verdict.status is None:
        next_step = f"trying again in {verdict.pause:.0f} s"
    elif verdict.status == exit_status.FATAL_STATUS:
        next_step = (
            "PostgreSQL stops here, so that recovery does not end early: nothing is lost, mend it and start again"
        )
    else:
        next_step = f"nothing was delivered, {ASKS_AGAIN}"
    log(f"{name}: {detail}; {next_step}")


def _pause(seconds: float, call: Call) -> None:
    """Sleep, but not while somebody waits for a promotion."""
    is_standby = call.mode == policy.STANDBY
    triggers = data_directory.promotion_files(call.cluster) if call.cluster and is_standby else []
    end = time.monotonic() + seconds
    while time.monotonic() < end and not any(map(os.path.exists, triggers)):
        handover.check_parent()
        time.sleep(min(STEP, max(0.0, end - time.monotonic())))
