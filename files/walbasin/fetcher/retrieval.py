"""Fetch from Barman what is not in the spool, until there is a verdict."""

import contextlib
import os
import time
from typing import List, Optional, Sequence, Tuple

from walbasin import policy
from walbasin.fetcher import absence, exit_status, gap, timeline_guard
from walbasin.fetcher.call import Call
from walbasin.fetcher.exit_status import Verdict
from walbasin.fetcher.foreground import ForegroundPrefetch
from walbasin.fetcher.log import ASKS_AGAIN, describe, log, log_absent
from walbasin.local import data_directory, handover, ipc
from walbasin.local.data_directory import DataDirectory
from walbasin.local.debug import debug, is_mistake
from walbasin.local.host_memory import OUTAGE_SECONDS
from walbasin.local.ipc import Reply
from walbasin.local.spool import Spool
from walbasin.prefetch import process
from walbasin.prefetch.process import PrefetchConfig
from walbasin.remote import archive
from walbasin.remote.archive import Archive
from walbasin.remote.errors import (
    OUTAGES,
    FetchError,
    HostUnreachable,
    NotInArchive,
    RemoteError,
    SkippedDuringOutage,
    Unconfirmed,
    Unheard,
)
from walbasin.wal import segment
from walbasin.wal.compression import UnsupportedCompression

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
        outcome, detail = _guard(call, *_attempt(call, reply))
        time_left = call.options.retry - (time.monotonic() - started)
        # A promotion asks for histories, and nobody asks for them in a hurry.
        sleep = 0.0 if segment.is_history_name(call.options.wal_name) else call.options.sleep
        verdict = exit_status.decide(outcome, call.mode, sleep, attempt, time_left)
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
        try:
            _fetch(call, reply)
        except NotInArchive as answer:
            outcome, detail = absence.explain(call, bool(str(answer)) or _is_look_due(call))
            # Where nothing is proved, it could end a recovery too early.
            is_last_resort = outcome == policy.ABSENT or (call.mode == policy.STANDBY and outcome != policy.GAP)
            if not is_last_resort or not call.wants_partial or not _deliver_partial(call):
                return outcome, detail
        return policy.DELIVERED, ""
    except Unconfirmed as error:
        outcome, detail = error.outcome, str(error)
        if call.mode == policy.STANDBY and _is_look_due(call):
            found = absence.explain(call, is_look_due=True)
            outcome, detail = found if found[0] == policy.GAP else (outcome, detail)
        return outcome, detail
    except FetchError as error:
        return error.outcome, str(error)
    except segment.InvalidWal as error:
        return policy.INVALID, str(error)
    except OSError as error:
        if is_mistake(error):
            raise
        return policy.LOCAL_ERROR, f"cannot write {call.options.wal_dest}: {error.strerror}"


def _guard(call: Call, outcome: str, detail: str) -> Tuple[str, str]:
    """Return the outcome and its cause, after the timeline guard has had its say."""
    try:
        objection = timeline_guard.withhold(call, outcome == policy.DELIVERED)
    except OSError as error:
        log(f"{call.options.wal_name}: whether this server can follow the timeline cannot be told: {describe(error)}")
        return outcome, detail
    return (policy.ABANDONED, objection) if objection else (outcome, detail)


def _is_look_due(call: Call) -> bool:
    """Return whether a call without a prefetch process has to look for a gap itself."""
    return call.options.parallel < 2 and gap.is_look_due(call.spool)


def _fetch(call: Call, reply: Optional[Reply]) -> None:
    """Deliver the file from Barman, by the way that is open to this call.

    Raises NotInArchive, FetchError, InvalidWal, and OSError when the destination cannot
    be written.
    """
    options, spool, cluster = call.options, call.spool, call.cluster
    handover.check_destination(options.wal_dest)
    if spool is not None and reply is None and call.mode == policy.STANDBY:
        outage = spool.outage()
        if outage is not None and outage.age < OUTAGE_SECONDS:
            if call.promotion().has_file():
                spool.record_outage(outage.cause)  # so that the next calls of the promotion are skipped, too
            cause = f": {outage.cause}" if outage.cause else ""
            raise SkippedDuringOutage(
                f"skipped, {options.barman_host} could not be reached {outage.age:.0f} s ago{cause}"
            )
    try:
        # A prefetch process ends with the recovery.
        is_alone = options.parallel < 2 or (reply is None and call.is_at_end_of_recovery())
        if spool is None or cluster is None or is_alone:
            debug(f"{options.wal_name}: without a prefetch process")
            _fetch_directly(call, None)
        elif reply is None and (reason := process.why_not(spool, cluster)):
            debug(f"{options.wal_name}: no prefetch process may run: {reason}")
            _fetch_with_foreground_prefetch(call, spool, cluster, reason)
        else:
            _fetch_through_prefetch(call, spool, cluster, reply)
    except OUTAGES as error:
        if spool is not None:
            spool.record_outage(str(error))
        raise
    except (Unconfirmed, Unheard):
        if spool is not None:
            spool.clear_outage()
        raise
    if spool is not None:
        spool.clear_outage()


def _fetch_through_prefetch(call: Call, spool: Spool, cluster: DataDirectory, reply: Optional[Reply]) -> None:
    """Have the prefetch process fetch the file; fetch it here where that fails."""
    name, options = call.options.wal_name, call.options
    config = PrefetchConfig(
        spool=spool,
        cluster=cluster,
        archives=call.archives(),
        jobs=options.parallel,
        fingerprint=options.fingerprint,
    )
    try:
        _deliver_reply(call, spool, reply or _request_from_prefetch(config, name))
        return
    except PrefetchUnavailable as reason:
        if str(reason):
            log(f"{name}: {reason}; fetching without it")
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
                debug(f"{name}: another process has the spool")
                time.sleep(TRY_STEP)
        except OSError as error:
            raise PrefetchUnavailable(f"no prefetch process: {error.strerror}") from error
    raise PrefetchUnavailable("the prefetch process does not answer")


def _deliver_reply(call: Call, spool: Spool, reply: Reply) -> None:
    """Do what a reply says: deliver the file, or raise what `_fetch` would.

    Raises PrefetchUnavailable as well.
    """
    if reply.outcome == policy.ABSENT:
        raise NotInArchive(reply.detail)
    if reply.outcome in (policy.UNCONFIRMED, policy.UNHEARD):
        raise (Unheard if reply.outcome == policy.UNHEARD else Unconfirmed)(reply.detail)
    if reply.outcome == policy.UNKNOWN:
        raise (HostUnreachable if reply.is_outage else RemoteError)(reply.detail)
    if reply.outcome != policy.DELIVERED:  # the direct way has a second look at it
        raise PrefetchUnavailable(reply.detail if reply.outcome == policy.LOCAL_ERROR else "")
    if reply.detail:
        log(f"{call.options.wal_name}: {reply.detail}")
    if not spool.deliver(call.options.wal_name, call.options.wal_dest):
        raise PrefetchUnavailable


def _fetch_with_foreground_prefetch(call: Call, spool: Spool, cluster: DataDirectory, reason: str) -> None:
    """Fetch what comes next beside the requested file, before this call ends.

    reason: why no prefetch process may run.
    """
    name, jobs = call.options.wal_name, call.options.parallel
    prefetch = None
    if segment.is_segment_name(name) and spool.lock():
        prefetch = ForegroundPrefetch(
            spool=spool,
            archive=call.archives()[0],
            requested=name,
            jobs=jobs,
            size=cluster.segment_size,
        )
        if spool.register(cluster):
            log(
                f"{name}: {reason}, so there is no prefetch process; "
                f"-p {jobs} fetches as many segments at a time before it answers"
            )
    _fetch_directly(call, prefetch)
    if prefetch is not None and prefetch.errors:
        log(f"{name}: delivered, but what comes after it was not prefetched: {prefetch.errors[0]}")


def _fetch_directly(call: Call, prefetch: Optional[ForegroundPrefetch]) -> None:
    sources = call.archives()
    try:
        _fetch_from(call, sources, prefetch)
    except UnsupportedCompression:
        if not call.options.keep_compression:
            raise
        plain = [each._replace(request=each.request._replace(keep_compression=False)) for each in sources]
        _fetch_from(call, plain)


def _fetch_from(call: Call, sources: Sequence[Archive], prefetch: Optional[ForegroundPrefetch] = None) -> None:
    """Deliver the file from the first of these archives that has it.

    Raises what _fetch does.
    """
    name, destination = call.options.wal_name, call.options.wal_dest
    if len(sources) == 1:
        archive.fetch(sources[0], name, destination, beside=prefetch.start if prefetch else None)
        return
    # Import late: a single host does not need it.
    from walbasin.remote import direct_fetch

    notices: List[str] = []
    direct_fetch.fetch(
        sources,
        name,
        destination,
        memory=call.host_memory(),
        on_notice=notices.append,
        beside=prefetch.start if prefetch else None,
    )
    for notice in notices:
        log(f"{name}: {notice}")


def _deliver_partial(call: Call) -> bool:
    """Deliver the .partial of a segment. Return False where there is none.

    PostgreSQL puts what it restores in the place of its own file, and Barman may have
    received less of it. So it is delivered only where it has more.
    Raises FetchError, InvalidWal, OSError.
    """
    name, destination = call.options.wal_name, call.options.wal_dest
    for source in call.archives():
        incoming = f"{destination}.partial"
        try:
            archive.fetch(source, name, incoming, partial=True)
            try:
                if _reached(incoming, name, call) <= _reached_in_pg_wal(call):
                    return False
                os.rename(incoming, destination)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(incoming)
        except NotInArchive:
            continue
        except FetchError as error:
            # The next host's .partial may be older.
            raise Unheard(str(error)) if len(call.options.barman_hosts) > 1 else error from error
        return True
    return False


def _reached_in_pg_wal(call: Call) -> Tuple[int, int]:
    """Return how far the segment in pg_wal goes (_reached)."""
    name, cluster = call.options.wal_name, call.cluster
    if cluster is None or name not in data_directory.newest_segments(cluster):
        return -1, 0
    return _reached(cluster.file(f"pg_wal/{name}"), name, call)


def _reached(path: str, name: str, call: Call) -> Tuple[int, int]:
    """Return how far a file of a segment goes: its last page, and bytes of that."""
    with open(path, "rb") as file:
        offset, page = segment.last_page(
            file, name, call.cluster.segment_size if call.cluster else os.path.getsize(path)
        )
    return offset, len(page.rstrip(b"\0"))


def _report(call: Call, outcome: str, detail: str, verdict: Verdict) -> None:
    """Write what happened to PostgreSQL's log, and what happens next."""
    name, server = call.options.wal_name, call.options.server_name
    if outcome == policy.DELIVERED:
        return
    if outcome == policy.ABSENT:
        log_absent(name, server, detail or ASKS_AGAIN)
        return
    if outcome == policy.ABANDONED:
        log(f"{name}: {detail}")
        return
    if outcome == policy.INVALID and len(call.options.barman_hosts) == 1:
        detail = f"what came from {call.options.barman_host} was refused: {detail}"
    if verdict.status is None:
        next_step = f"trying again in {verdict.pause:.0f} s"
    elif verdict.status == exit_status.FATAL_STATUS:
        next_step = (
            "PostgreSQL stops here, so that recovery does not end early: nothing is lost, mend it and start again"
        )
    elif segment.is_history_name(name):
        next_step = f"PostgreSQL asks whether timeline {segment.timeline(name)} exists, and goes on as if it did not"
    else:
        next_step = f"nothing was delivered, {ASKS_AGAIN}"
    if outcome == policy.GAP and call.mode == policy.STANDBY:
        next_step = f"this standby cannot go on without it; {ASKS_AGAIN}"
    log(f"{name}: {detail}; {next_step}")


def _pause(seconds: float, call: Call) -> None:
    """Sleep, but not while somebody waits for a promotion."""
    promotion = call.promotion()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not promotion.is_asked_for():
        handover.check_parent()
        time.sleep(min(STEP, max(0.0, end - time.monotonic())))
