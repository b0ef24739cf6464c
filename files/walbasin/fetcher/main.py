"""Carry out one call of restore_command, from its arguments to its exit status.

What a spool hit does not need is imported late: PostgreSQL waits for this call, segment
by segment.
"""

import contextlib
import os
import signal
from types import FrameType
from typing import List, NoReturn, Optional

from walbasin import policy
from walbasin.fetcher import exit_status
from walbasin.fetcher.call import Call
from walbasin.fetcher.log import log
from walbasin.fetcher.options import Options, UsageError, parse
from walbasin.local import data_directory
from walbasin.local.data_directory import DataDirectory
from walbasin.local.debug import debug, traceback_of
from walbasin.local.ipc import Reply
from walbasin.local.spool import Spool, SpoolRefused
from walbasin.wal import segment


class Stopped(BaseException):
    """Report that a signal asked us to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(words: List[str], reply: Optional[Reply] = None) -> int:
    """Carry out one call. Return its exit status.

    reply: what the prefetch process has replied already (see ipc.request_file).
    Ends by SIGTERM or SIGINT when one of them asks for it, as PostgreSQL expects.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    _raise_descriptor_limit()
    debug(f"called with {words}")
    try:
        status = _main(words, reply)
    except SystemExit:  # -h and -V have printed
        return 0
    except Exception as error:  # a mistake of ours must not become a status that PostgreSQL reads as "not there"
        traceback_of(error)
        log(f"internal error, please report it: {type(error).__name__}: {error}")
        status = _final_status(policy.UNKNOWN, _mode_here())
    except Stopped as stopped:
        signal.signal(stopped.number, signal.SIG_DFL)
        os.kill(os.getpid(), stopped.number)
        raise
    debug(f"ends with status {status}")
    return status


def _raise_descriptor_limit() -> None:
    """Have room for our own descriptors: PostgreSQL up to 15 may hand on a thousand."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _stop(number: int, _: Optional[FrameType]) -> NoReturn:
    # A second signal must not interrupt the cleaning up after the first.
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)


def _main(words: List[str], reply: Optional[Reply]) -> int:
    try:
        options = parse(words)
    except UsageError as error:
        log(f"{error}; nothing was fetched")
        return _final_status(policy.LOCAL_ERROR, _mode_here())
    if options.test or options.status:
        options = _add_deployed(words, options)
    call = _make_call(options)
    if options.status:
        from walbasin.fetcher import status

        return status.run(call)
    if options.test:
        from walbasin.fetcher import selftest

        return selftest.run(call)
    return _deliver(call, reply)


def _add_deployed(words: List[str], options: Options) -> Options:
    """Return the options, with those of the role's command where none are given.

    Whoever calls by hand leaves them out.
    """
    from walbasin.fetcher import deployed

    cluster = data_directory.find(options.wal_dest)
    command = deployed.read_command(options.barman_host, options.server_name, cluster.path if cluster else None)
    try:
        completed = parse(words, command)
    except UsageError:  # not one of this version's
        return options
    if options.test and vars(completed) != vars(options):
        print(f"--  options     those not given are taken from {deployed.path_for(options.server_name)}", flush=True)
    return completed


def _make_call(options: Options) -> Call:
    cluster = data_directory.find(options.wal_dest)
    mode = options.mode or _mode_of(cluster)
    spool = None
    if cluster is None:
        log(f"{options.wal_name}: origin not checked, {options.wal_dest} is in no data directory")
    elif options.test or options.status or not _is_final(options, cluster):
        is_delivery = not options.test and not options.status
        try:
            spool = Spool(options.spool_dir, cluster, options.server_name, may_create=is_delivery)
        except SpoolRefused as refusal:
            log(f"{refusal}; fetching without it" if is_delivery else str(refusal))
    return Call(options, cluster, mode, spool)


def _is_final(options: Options, cluster: DataDirectory) -> bool:
    """Return whether the destination is the file's place in pg_wal: pg_rewind's way.

    The server, and wrappers around our command, give another name or folder.
    """
    folder, name = os.path.split(os.path.abspath(options.wal_dest))
    return name == options.wal_name and os.path.realpath(folder) == os.path.realpath(cluster.file("pg_wal"))


def _mode_here() -> str:
    """Return the mode when the command line could not be read."""
    return _mode_of(data_directory.read_here())


def _mode_of(cluster: Optional[DataDirectory]) -> str:
    """Return how a cluster is recovered. Be careful with one that nobody knows."""
    return cluster.mode if cluster else policy.RECOVERY


def _final_status(outcome: str, mode: str) -> int:
    status = exit_status.decide(outcome, mode).status
    return exit_status.FATAL_STATUS if status is None else status


def _deliver(call: Call, reply: Optional[Reply]) -> int:
    if reply is None and segment.is_segment_name(call.options.wal_name) and _deliver_from_spool(call):
        return exit_status.STANDBY_STATUS[policy.DELIVERED]
    from walbasin.fetcher import retrieval

    return retrieval.run(call, reply)


def _deliver_from_spool(call: Call) -> bool:
    try:
        return call.spool is not None and call.spool.deliver(call.options.wal_name, call.options.wal_dest)
    except OSError:  # the direct fetch will say what is wrong with the destination
        return False
