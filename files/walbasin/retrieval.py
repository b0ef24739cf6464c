"""A call that the spool could not answer: fetch from Barman until policy has a verdict."""

import os
import time
from typing import Optional, Tuple

from walbasin import archive, cluster, policy, segment
from walbasin.codec import Undecodable
from walbasin.job import Job, say
from walbasin.transport import Absent, Unreachable


class NotTried(Unreachable):
    """Barman could not be reached a moment ago, so it was not asked again."""


# A promotion asks four times: with Barman dead only the first of them waits.
OUTAGE_SECONDS = 15
STEP = 0.2


def run(job: Job) -> int:
    """Deliver the requested file, or say why not. The exit status is policy's."""
    started = time.monotonic()
    attempt = 0
    while True:
        outcome, detail = _attempt(job)
        patience = job.options.retry - (time.monotonic() - started)
        verdict = policy.decide(outcome, job.mode, job.options.sleep, attempt, patience)
        _report(job, outcome, detail, verdict)
        _pause(verdict.pause, job)
        if verdict.status is not None:
            return verdict.status
        attempt += 1


def _attempt(job: Job) -> Tuple[str, str]:
    """The outcome (policy's) of one try, and its cause in words."""
    try:
        _fetch(job)
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


def _fetch(job: Job) -> None:
    """From Barman, with what comes after it. Raises as archive.fetch does."""
    options, spool = job.options, job.spool
    if spool is not None and job.mode == policy.STANDBY:
        age = spool.outage_age()
        if age is not None and age < OUTAGE_SECONDS:
            raise NotTried(f"not tried, {options.barman_host} could not be reached {age:.0f} s ago")
    ahead = None
    is_wanted_ahead = options.parallel > 1 and segment.is_segment(options.wal_name)
    if spool is not None and job.cluster is not None and is_wanted_ahead and spool.claim():
        ahead = archive.Ahead(spool, options.parallel, cluster.segment_size(job.cluster))
    try:
        _fetch_as_transferred(job, ahead)
    except Unreachable as error:
        if spool is not None and error.is_connection:
            spool.note_outage()
        raise
    if spool is not None:
        spool.end_outage()
    if ahead is not None and ahead.troubles:
        say(f"{options.wal_name}: delivered, but what comes after it was not pre-fetched: {ahead.troubles[0]}")


def _fetch_as_transferred(job: Job, ahead: Optional[archive.Ahead]) -> None:
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
    """The archive has no such file. In a point-in-time recovery that must not be said of a hole."""
    name = job.options.wal_name
    if job.mode == policy.STANDBY or job.cluster is None or not segment.is_segment(name):
        return policy.ABSENT, ""
    size = cluster.segment_size(job.cluster)
    if segment.position(name, size) < cluster.switch_position(job.cluster, segment.timeline(name), size):
        return policy.ABSENT, ""  # it belongs to a parent of this timeline, and will be asked for there
    try:
        later = archive.holds_beyond(archive.of(job), name, size)
        if later is None or segment.position(name, size) < archive.switch_position(archive.of(job), name, size):
            return policy.ABSENT, ""
    except (Unreachable, segment.Invalid) as error:
        return policy.UNKNOWN, f"not in the archive, and whether it is a hole cannot be found out: {error}"
    return policy.HOLE, f"the archive has a hole here: it holds {later}"


def _report(job: Job, outcome: str, detail: str, verdict: policy.Verdict) -> None:
    """What happened, and what happens next."""
    name, server = job.options.wal_name, job.options.server_name
    if outcome == policy.DELIVERED or (outcome == policy.ABSENT and segment.is_history(name)):
        return
    if outcome == policy.ABSENT:
        end = "recovery ends here" if job.mode == policy.RECOVERY else "PostgreSQL will ask again"
        say(f"{name}: not in the archive of {server}; {end}")
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
        next_step = "nothing was delivered, PostgreSQL will ask again"
    say(f"{name}: {detail}; {next_step}")


def _pause(seconds: float, job: Job) -> None:
    """Sleep, but not while somebody waits for a promotion."""
    triggers = cluster.promotion_files(job.cluster) if job.cluster and job.mode == policy.STANDBY else []
    end = time.monotonic() + seconds
    while time.monotonic() < end and not any(map(os.path.exists, triggers)):
        time.sleep(min(STEP, max(0.0, end - time.monotonic())))
