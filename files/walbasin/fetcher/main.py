"""barman-wal-restore: one call of PostgreSQL's restore_command, from its arguments to its exit status.

What a spool hit does not need is imported behind it: PostgreSQL waits for this call, segment by segment.
"""

import os
import signal
from types import FrameType
from typing import List, NoReturn, Optional, Tuple

from walbasin import policy
from walbasin.fetcher.call import Job
from walbasin.fetcher.log import say
from walbasin.fetcher.options import Options, UsageError, parse
from walbasin.local import data_directory
from walbasin.local.spool import Refused, Spool
from walbasin.wal import segment

# What the server itself asks for; pg_rewind gives the final name.
SERVER_DESTINATIONS = ("RECOVERYXLOG", "RECOVERYHISTORY")


class Stopped(BaseException):
    """A signal asked us to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(words: List[str], answer: Optional[Tuple[str, ...]] = None) -> int:
    """Carries out one call. `answer`: what the background process has answered to it already (see ask.request).

    Ends by SIGTERM or SIGINT when one of them asks for it, as PostgreSQL expects."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return _main(words, answer)
    except SystemExit:  # -h and -V have printed
        return 0
    except Exception as error:  # a mistake of ours must not become a status that PostgreSQL reads as "not there"
        say(f"internal error, please report it: {type(error).__name__}: {error}")
        return _final_status(policy.UNKNOWN, _mode_here())
    except Stopped as stopped:
        signal.signal(stopped.number, signal.SIG_DFL)
        os.kill(os.getpid(), stopped.number)
        raise


def _stop(number: int, _: Optional[FrameType]) -> NoReturn:
    # A second signal must not interrupt the cleaning up after the first.
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)


def _main(words: List[str], answer: Optional[Tuple[str, ...]]) -> int:
    try:
        options = parse(words)
    except UsageError as error:
        say(f"{error}; nothing was fetched")
        return _final_status(policy.UNUSABLE, _mode_here())
    if options.status:
        from walbasin.fetcher import status

        return status.run(_job(options))
    if options.test:
        from walbasin.fetcher import selftest

        return selftest.run(_job(options))
    return _serve(_job(options), answer)


def _job(options: Options) -> Job:
    own = data_directory.find(options.wal_dest)
    mode = options.mode or (data_directory.recovery_mode(own) if own else policy.STANDBY)
    spool = None
    if own is None:
        say(f"{options.wal_name}: origin not checked, {options.wal_dest} is in no data directory")
    elif options.test or options.status or os.path.basename(options.wal_dest) in SERVER_DESTINATIONS:
        try:
            spool = Spool(options.spool_dir, own, options.barman_host, options.server_name)
        except Refused as refusal:
            say(f"{refusal}; fetching without it")
    return Job(options, own, mode, spool)


def _mode_here() -> str:
    """The mode when the command line could not be read: PostgreSQL's working directory is PGDATA."""
    here = data_directory.read(os.getcwd())
    return data_directory.recovery_mode(here) if here else policy.STANDBY


def _final_status(outcome: str, mode: str) -> int:
    status = policy.decide(outcome, mode).status
    return policy.STOP if status is None else status


def _serve(job: Job, answer: Optional[Tuple[str, ...]]) -> int:
    if answer is None and segment.is_segment(job.options.wal_name) and _take_from_spool(job):
        return policy.STANDBY_STATUS[policy.DELIVERED]
    from walbasin.fetcher import retrieval

    return retrieval.run(job, answer)


def _take_from_spool(job: Job) -> bool:
    try:
        return job.spool is not None and job.spool.take(job.options.wal_name, job.options.wal_dest)
    except OSError:  # the direct fetch will say what is wrong with the destination
        return False
