"""A call that the spool could not answer: fetch from Barman until policy has a verdict."""

import os
import time
from typing import Optional, Tuple

from walbasin import policy
from walbasin.fetcher.call import Job
from walbasin.fetcher.log import ASKS_AGAIN, say, say_absent
from walbasin.local import data_directory, handover, ipc
from walbasin.local.spool import Spool
from walbasin.prefetch import process
from walbasin.remote import archive
from walbasin.remote.ssh import Absent, Unreachable
from walbasin.wal import segment, window
from walbasin.wal.compression import Undecodable

# A promotion asks four times: with Barman dead only the first of them waits.
OUTAGE_SECONDS = 15
STEP = 0.2
# How often, and how far apart, to try for a background process: one that makes room for us needs a moment.
TRIES, TRY_STEP = 40, 0.05


class NotTried(Unreachable):
    """Barman could not be reached a moment ago, so it was not asked again."""


class Unserved(Exception):
    """The background process cannot do it, the text (which may be empty) says why."""


def run(job: Job, answer: Optional[Tuple[str, ...]] = None) -> int:
    """Deliver the requested file, or say why not. The exit status is policy's."""
    started = time.monotonic()
    attempt = 0
    while True:
        outcome, detail = _attempt(job, answer)
        patience = job.options.retry - (time.monotonic() - started)
        verdict = policy.decide(outcome, job.mode, job.options.sleep, attempt, patience)
        _report(job, outcome, detail, verdict)
        _pause(verdict.pause, job)
        if verdict.status is not None:
            return verdict.status
        answer = None
        attempt += 1


def _attempt(job: Job, answer: Optional[Tuple[str, ...]]) -> Tuple[str, str]:
    """The outcome (policy's) of one try, and its cause in words."""
    try:
        _fetch(job, answer)
        return policy.DELIVERED, ""
    except Absent:
        return _absent(job)
    except NotTried as error:
        return policy.NOT_TRIED, str(error)
    except Unreachable as error:
        return policy.UNKNOWN, str(error)
    except segment.Invalid as error:
        return policy.INVALID, str(error)
    except OSError as error:
        return policy.UNUSABLE, f"cannot write {job.options.wal_dest}: {error.strerror}"


def _fetch(job: Job, answer: Optional[Tuple[str, ...]]) -> None:
    """From Barman. Raises Absent, Unreachable, segment.Invalid, and OSError when the destination cannot be written."""
    options, spool = job.options, job.spool
    if spool is not None and answer is None and job.mode == policy.STANDBY:
        age = spool.outage_age()
        if age is not None and age < OUTAGE_SECONDS:
            raise NotTried(f"not tried, {options.barman_host} could not be reached {age:.0f} s ago")
    try:
        if spool is None or job.cluster is None or options.parallel < 2:
            _fetch_directly(job, None)
        elif process.may_run(job.cluster):
            _fetch_through_basin(
                job,
                process.Service(spool, job.cluster, archive.of(job), options.parallel, options.fingerprint),
                answer,
            )
        else:
            _fetch_and_look_ahead(job, spool, job.cluster)
    except Unreachable as error:
        if spool is not None and error.is_connection:
            spool.note_outage()
        raise
    if spool is not None:
        spool.end_outage()


def _fetch_through_basin(job: Job, service: process.Service, answer: Optional[Tuple[str, ...]]) -> None:
    name = job.options.wal_name
    try:
        _take(job, service.spool, answer or _ask(service, name))
        return
    except Unserved as reason:
        if str(reason):
            say(f"{name}: {reason}; fetching without it")
    except Absent:
        if not (job.options.partial and segment.is_segment(name)):
            raise
    _fetch_directly(job, None)


def _ask(service: process.Service, name: str) -> Tuple[str, ...]:
    """Raises Unserved."""
    end = time.monotonic() + ipc.SILENCE_LIMIT
    for _ in range(TRIES):
        if time.monotonic() > end:
            break
        answer = service.spool.ask(name, service.fingerprint)
        if answer is not None:
            return answer
        try:
            if not process.start(service):
                time.sleep(TRY_STEP)
        except OSError as error:
            raise Unserved(f"no background process: {error.strerror}") from error
    raise Unserved("the background process does not answer")


def _take(job: Job, spool: Spool, answer: Tuple[str, ...]) -> None:
    """Make of the answer what `_fetch` makes of a fetch. Raises Unserved as well."""
    outcome, _, detail, is_outage = answer
    if outcome == policy.ABSENT:
        raise Absent(job.options.wal_name)
    if outcome == policy.UNKNOWN:
        raise Unreachable(detail, bool(is_outage))
    if outcome != policy.DELIVERED:  # the direct way has a second look at it
        raise Unserved(detail if outcome == policy.UNUSABLE else "")
    if detail:
        say(f"{job.options.wal_name}: {detail}")
    if not spool.take(job.options.wal_name, job.options.wal_dest):
        raise Unserved


def _fetch_and_look_ahead(job: Job, spool: Spool, own: data_directory.Cluster) -> None:
    """Where no background process may run: what comes next is fetched beside the requested file, before we end."""
    ahead = None
    if segment.is_segment(job.options.wal_name) and spool.claim():
        ahead = archive.Ahead(spool, job.options.parallel, data_directory.segment_size(own))
        if spool.publish(own):
            say(
                f"{job.options.wal_name}: process 1 is the postmaster, so there is no background process; "
                f"-p {job.options.parallel} fetches as many segments at a time before it answers"
            )
    _fetch_directly(job, ahead)
    if ahead is not None and ahead.troubles:
        say(f"{job.options.wal_name}: delivered, but what comes after it was not pre-fetched: {ahead.troubles[0]}")


def _fetch_directly(job: Job, ahead: Optional[archive.Ahead]) -> None:
    name, destination, source = job.options.wal_name, job.options.wal_dest, archive.of(job)
    try:
        archive.fetch(source, name, destination, ahead=ahead)
    except Undecodable:
        if not job.options.keep_compression:
            raise
        plain = source._replace(request=source.request._replace(keep_compression=False))
        archive.fetch(plain, name, destination)
    except Absent:
        if not (job.options.partial and segment.is_segment(name)):
            raise
        archive.fetch(source, name, destination, partial=True)


def _absent(job: Job) -> Tuple[str, str]:
    """The archive has no such file, and what follows. In a point-in-time recovery it must not be said of a hole."""
    name = job.options.wal_name
    if job.mode == policy.STANDBY:
        return policy.ABSENT, ASKS_AGAIN
    if job.cluster is not None and segment.is_segment(name):
        if name in data_directory.newest_segments(job.cluster):
            return policy.ABSENT, "PostgreSQL has it in pg_wal"  # and looks there next
        try:
            later = _held_beyond(job, job.cluster)
        except (Unreachable, segment.Invalid) as error:
            return policy.UNKNOWN, f"not in the archive, and whether it is a hole cannot be found out: {error}"
        if later is not None:
            return policy.HOLE, f"the archive has a hole here: it holds {later}"
    return policy.ABSENT, "recovery ends here"


def _held_beyond(job: Job, own: data_directory.Cluster) -> Optional[str]:
    """A segment that the archive holds although the requested one, before it, is not there.

    Raises Unreachable, segment.Invalid.
    """
    name, size, source = job.options.wal_name, data_directory.segment_size(own), archive.of(job)
    timeline, number = segment.timeline(name), segment.position(name, size)
    histories = [window.beginnings(history, switches, size) for history, switches in data_directory.histories(own)]
    # It may belong to a parent of this timeline, and will be asked for there.
    if any(number < starts.get(timeline, 0) for starts in histories):
        return None
    for names in window.beyond(name, size, histories):
        later = archive.first_of(source, names)
        if later is not None:
            return later if number >= archive.switch_position(source, name, size) else None
    return None


def _report(job: Job, outcome: str, detail: str, verdict: policy.Verdict) -> None:
    """What happened, and what happens next."""
    name, server = job.options.wal_name, job.options.server_name
    if outcome == policy.DELIVERED:
        return
    if outcome == policy.ABSENT:
        say_absent(name, server, detail)
        return
    if outcome == policy.INVALID:
        detail = f"what came from {job.options.barman_host} was refused: {detail}"
    if segment.is_history(name) and outcome != policy.UNUSABLE:
        detail += f"; timeline {segment.timeline(name)} may be taken already, and was not looked up"
    if verdict.status is None:
        next_step = f"trying again in {verdict.pause:.0f} s"
    elif verdict.status == policy.STOP:
        next_step = (
            "PostgreSQL stops here, so that recovery does not end early: nothing is lost, mend it and start again"
        )
    else:
        next_step = f"nothing was delivered, {ASKS_AGAIN}"
    say(f"{name}: {detail}; {next_step}")


def _pause(seconds: float, job: Job) -> None:
    """Sleep, but not while somebody waits for a promotion."""
    triggers = data_directory.promotion_files(job.cluster) if job.cluster and job.mode == policy.STANDBY else []
    end = time.monotonic() + seconds
    while time.monotonic() < end and not any(map(os.path.exists, triggers)):
        handover.check()
        time.sleep(min(STEP, max(0.0, end - time.monotonic())))
