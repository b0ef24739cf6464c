"""Run the prefetch process behind -p: one for a cluster, in a session of its own.

Calls of restore_command reach it through a socket in the cluster's spool. The first
call that finds none starts it: holding the spool's lock it makes the socket, then
forks. So nobody waits for it to come up, and there are never two.
"""

import contextlib
import os
import signal
import socket
import time
from types import FrameType
from typing import Dict, List, NamedTuple, NoReturn, Optional, Set, Tuple

from walbasin import policy
from walbasin.local import data_directory, ipc, processes, promotion, whole_file
from walbasin.local.data_directory import DataDirectory
from walbasin.local.debug import debug
from walbasin.local.spool import Spool
from walbasin.prefetch import counters
from walbasin.prefetch.counters import Counters
from walbasin.prefetch.prefetcher import FetchResult, Prefetcher, report, report_internal_error, result_of
from walbasin.remote.archive import Archive
from walbasin.remote.errors import GivenUp
from walbasin.remote.event_loop import EventLoop
from walbasin.remote.ssh import printable
from walbasin.wal import segment

# Seconds without a request until it ends: a standby that streams asks for nothing.
IDLE_LIMIT = 60.0
# Seconds between two looks at the server, and between two keepalives to clients.
TICK = 1.0
# Seconds between two looks at what does not announce itself, and for a promotion while
# PostgreSQL may be waiting.
POLL, PROMOTION_STEP = 0.02, 0.1
# Seconds for which PostgreSQL asks for the same missing file, before a call looks for a
# gap, and between two such looks; and what the call is told then.
STUCK, LOOK_INTERVAL, LOOK = 60.0, 600.0, "look for a gap"
# Seconds in which process 1 should have reaped a process that has ended.
REAPED_IN = 30.0
# Clients that may wait to be accepted.
BACKLOG = 8
# Bytes: all that a FIFO holds, so that no line is cut.
FIFO_LENGTH = 65536


class Stopped(BaseException):
    """Report that SIGTERM asked the process to stop."""


class PrefetchConfig(NamedTuple):
    """Hold for whom the process works, and how.

    archives: one for each Barman host, that of the preferred one first. Calls with
    another fingerprint (their version and options) want another process.
    """

    spool: Spool
    cluster: DataDirectory
    archives: Tuple[Archive, ...]
    jobs: int
    fingerprint: str


class PrefetchServer:
    """Do what the process does, from its start to its end."""

    def __init__(self, config: PrefetchConfig, listener: socket.socket, startup_process: Optional[int]) -> None:
        self.spool = config.spool
        self.cluster = config.cluster
        self.fingerprint = config.fingerprint
        self.listener = listener
        self.startup_process = startup_process
        self.loop = EventLoop(config.archives[0].rate_limit)
        self.prefetcher = Prefetcher(
            spool=config.spool,
            archives=config.archives,
            jobs=config.jobs,
            size=self.cluster.segment_size,
            loop=self.loop,
        )
        # Of each client, what it has sent so far.
        self.clients: Dict[socket.socket, bytes] = {}
        self.counters = Counters(self.spool.load_text(counters.FILE))
        self.saved_counters = self.counters.dump()
        # What was delivered to a client that waited, and is still to be taken.
        self.not_taken: Set[str] = set()
        # Since when PostgreSQL asks for what the archive does not have, and when a call
        # was last told to look for a gap.
        self.absent_since: Dict[str, float] = {}
        self.looked_at = float("-inf")
        self.promotion = promotion.watch(self.cluster)
        # Nothing has come for a promotion: its later requests are not tried.
        self.has_given_up = False
        self.is_ending = False
        self.is_idle = False
        self.last_use = time.monotonic()

    def run(self) -> None:
        """Serve until there is a reason to end. Then clear the spool, end all ssh.

        After an idle end what may still be wanted stays in the spool.
        """
        debug(f"the prefetch process starts, for {self.cluster.path}")
        fifo = self.spool.open_taken_fifo()
        self.spool.register(self.cluster)
        self.spool.record_process(os.getpid())
        with contextlib.suppress(OSError):
            whole_file.sweep(self.cluster.file("pg_wal"), "RECOVERYXLOG")
        try:
            with self.loop:
                self.loop.add_reader(self.listener.fileno(), self.accept)
                self.loop.add_reader(fifo, lambda: self.on_taken(fifo))
                self._watch_server()
                next_tick = time.monotonic() + TICK
                while not self.is_ending:
                    is_polling = self.prefetcher.source.must_be_polled()
                    wait = POLL if is_polling else next_tick - time.monotonic()
                    self.loop.run_once(max(0.0, min(wait, PROMOTION_STEP if self.prefetcher.has_work() else TICK)))
                    is_tick = time.monotonic() >= next_tick
                    if is_tick or self.prefetcher.source.must_be_polled():
                        self.prefetcher.tick()
                    self._give_up_for_promotion()
                    if is_tick:
                        next_tick = time.monotonic() + TICK
                        self.is_ending |= self._is_over()
                        self.send_keepalives()
                        self._save_counters()
        finally:
            debug("the prefetch process ends")
            self._save_counters()
            # A standby that is delayed, or paused, will ask for them.
            self.spool.clear(self.prefetcher.still_wanted() if self.is_idle else ())
            self.spool.record_process(os.getpid())

    def _watch_server(self) -> None:
        """End before the server does, so that its service waits for nobody.

        A systemd that is not told of empty control groups (version 1, in a container)
        was seen to wait for ever. When a server stops, its startup process is the first
        to go, and the postmaster the last.
        """
        postmaster_id = self.cluster.postmaster_id
        # pidfd_open needs Python 3.9. Without it the next tick notices the end.
        if postmaster_id is None or not hasattr(os, "pidfd_open"):
            return
        for process in (self.startup_process, data_directory.process_id(postmaster_id)):
            with contextlib.suppress(OSError):
                if process is not None:
                    self.loop.add_reader(os.pidfd_open(process), self._end)

    def _give_up_for_promotion(self) -> None:
        """Hold up no promotion: neither with this file, nor with those asked for next.

        A shell may be waiting for a segment that is on its way. What does come is
        brought to the end: a promotion replays all that the archive gives out.
        """
        if (
            self.prefetcher.has_work()
            and self.prefetcher.is_quiet()
            and self.promotion.is_asked_for()
            and data_directory.current_mode(self.cluster) == policy.STANDBY
        ):
            if self.prefetcher.source.ask_others():
                return
            debug("a promotion is asked for: nothing is fetched any more")
            self.has_given_up = True
            cause = GivenUp()
            self.prefetcher.give_up(cause)
            self.spool.record_outage(str(cause))

    def _end(self) -> None:
        self.is_ending = True

    def _is_over(self) -> bool:
        """Return whether it is idle, promoted, or without server or spool."""
        postmaster_id = self.cluster.postmaster_id
        is_promoted = postmaster_id is not None and not data_directory.is_still_recovering(self.cluster)
        is_server_gone = data_directory.current_postmaster_id(self.cluster) != postmaster_id
        is_cluster_gone = not data_directory.is_same_cluster(self.cluster)
        is_spool_lost = self.spool.is_removed() or self._is_spool_open()
        if is_promoted or is_server_gone or is_cluster_gone or is_spool_lost:
            reasons = f"promoted {is_promoted}, server gone {is_server_gone}, data directory gone {is_cluster_gone}"
            debug(f"there is a reason to end: {reasons}, spool lost {is_spool_lost}")
            return True
        is_unused = not self.prefetcher.has_work() and time.monotonic() - self.last_use > IDLE_LIMIT
        self.is_idle = is_unused and not self.is_ending
        return self.is_idle

    def _is_spool_open(self) -> bool:
        """Return whether others could put files into the spool. Let them out, if so.

        The end clears it, and unregisters it: the next call looks at it anew.
        """
        if self.spool.is_private():
            return False
        self.spool.close_to_others()
        report("the spool was open to others: it is emptied, and its modes should be 700")
        return True

    # Clients: calls of restore_command.

    def accept(self) -> None:
        """Let a client in."""
        client, _ = self.listener.accept()
        client.setblocking(False)
        self.clients[client] = b""
        self.loop.add_reader(client.fileno(), lambda: self.read_request(client))

    def read_request(self, client: socket.socket) -> None:
        """Read what a client sends, and handle it when it is a whole line."""
        if client not in self.clients:  # closed in this very round
            return
        try:
            data = client.recv(ipc.LONGEST)
        except OSError:
            data = b""
        request, end, rest = (self.clients[client] + data).partition(b"\n")
        self.clients[client] = rest if end else request
        if end:
            self.handle_request(client, request)
        elif not data or len(self.clients[client]) > ipc.LONGEST:
            self.close_client(client)

    def handle_request(self, client: socket.socket, request: bytes) -> None:
        """Have the file fetched that a client asks for."""
        self.last_use = time.monotonic()
        name, _, fingerprint = request.decode("utf-8", "replace").partition("\t")
        if fingerprint != self.fingerprint:
            # End: options or version are others now. Without a reply the client waits
            # for the lock, and starts another process.
            debug(f"{name}: asked for with {fingerprint}, not {self.fingerprint}")
            self._end()
        elif segment.is_wal_file_name(name):
            debug(f"{name}: asked for by PostgreSQL")
            requested_at = self.last_use
            self.has_given_up = self.has_given_up and self.promotion.is_asked_for()
            if self.has_given_up:
                self.send_reply(client, name, requested_at, result_of(GivenUp()))
            else:
                self.prefetcher.request(name, lambda result: self.send_reply(client, name, requested_at, result))
        else:
            self.close_client(client)

    def send_reply(self, client: socket.socket, name: str, requested_at: float, result: FetchResult) -> None:
        """Tell a client what became of its request."""
        self.last_use = time.monotonic()
        self.counters.count_reply(name, result.outcome, result.detail, self.last_use - requested_at)
        if result.outcome == policy.DELIVERED:
            self.not_taken.add(name)
        if result.is_outage:
            self.spool.record_outage(printable(result.detail))
        elif result.outcome != policy.UNKNOWN:
            self.spool.clear_outage()
        mode = data_directory.current_mode(self.cluster)
        outcome, detail = result.outcome, result.detail
        is_missing = outcome == policy.ABSENT or (outcome == policy.UNCONFIRMED and mode == policy.STANDBY)
        if is_missing and self._is_look_due(name):
            outcome, detail = policy.ABSENT, LOOK
        elif outcome == policy.DELIVERED:
            self.absent_since.clear()
        reply = ipc.Reply(outcome, mode, printable(detail), result.is_outage)
        self._send(client, reply.to_line())

    def _is_look_due(self, name: str) -> bool:
        """Return whether the call has to look for a gap: PostgreSQL asks for long.

        Never at once: a promotion asks for files that are not there, too.
        """
        since = self.absent_since.setdefault(name, self.last_use)
        is_due = self.last_use - since > STUCK and self.last_use - self.looked_at > LOOK_INTERVAL
        if is_due:
            self.looked_at = self.last_use
        return is_due

    def send_keepalives(self) -> None:
        """Tell clients that they wait for a living process."""
        for client in list(self.clients):
            self._send(client, b"\n")

    def _send(self, client: socket.socket, data: bytes) -> None:
        if client in self.clients:
            try:
                client.send(data)
            except OSError:
                self.close_client(client)

    def close_client(self, client: socket.socket) -> None:
        """Let a client go."""
        del self.clients[client]
        self.loop.remove_reader(client.fileno())
        client.close()

    def on_taken(self, fifo: int) -> None:
        """Count segments that were taken.

        Each is a line, with the uptime at which a shell began to wait for it, if it had
        to.
        """
        self.last_use = time.monotonic()
        for line in os.read(fifo, FIFO_LENGTH).decode("ascii", "replace").splitlines():
            name, _, since = line.partition(" ")
            debug(f"{name}: taken")
            if segment.is_segment_name(name):
                waited = max(0.0, _uptime() - float(since)) if since else 0.0
                was_ready = not since and name not in self.not_taken
                self.counters.count_delivered(name, self.prefetcher.size, was_ready, waited)
            self.not_taken.discard(name)
        self.prefetcher.pump()

    def _save_counters(self) -> None:
        text = self.counters.dump()
        if text != self.saved_counters:
            self.spool.save_text(counters.FILE, text)
            self.saved_counters = text


def _uptime() -> float:
    """Return the uptime as the shell sees it: a container may have one of its own."""
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


def why_not(spool: Spool, cluster: DataDirectory) -> str:
    """Return why no prefetch process may run here, or an empty string.

    Process 1 inherits it. A postmaster takes its end for a backend's crash, and a
    process that does not reap keeps a zombie of it.
    """
    if cluster.postmaster_id is not None and data_directory.process_id(cluster.postmaster_id) == 1:
        return "process 1 is the postmaster"
    try:
        with open("/proc/1/status", encoding="ascii", errors="replace") as file:
            status = file.read()
        fields = processes.read_stat(1)
    except OSError:
        return ""
    is_reaped = may_reap(status, fields) and not processes.is_zombie(spool.former_process(REAPED_IN))
    return "" if is_reaped else "process 1 leaves zombies"


def may_reap(status: str, fields: List[str]) -> bool:
    """Return False for a process that has never noticed the end of a child.

    status, fields: what is in /proc/PID/status, and see processes.stat_fields. It has
    caught, blocked or ignored SIGCHLD, or has waited for a child: then that child's
    page faults are in cminflt.

    >>> may_reap("SigIgn:\\t0000000000000000\\n", "S 0 1 1 0 -1 4 120 0 0".split())
    False
    """
    masks = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Sig"))
    bit = 1 << (signal.SIGCHLD - 1)
    notices = any(int(masks.get(name, "0"), 16) & bit for name in ("SigBlk", "SigIgn", "SigCgt"))
    return notices or int(fields[processes.CHILD_FAULTS]) > 0


def start(config: PrefetchConfig) -> bool:
    """Start the process, with its socket in place when this returns.

    Returns False when another process is at it. Raises OSError.
    """
    if not config.spool.lock():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        config.spool.bind(listener)
        listener.listen(BACKLOG)
        startup_process = data_directory.find_startup_process(config.cluster.postmaster_id)
        child = os.fork()
        if child == 0:
            _become_prefetch_process(config, listener, startup_process)
    os.waitpid(child, 0)
    return True


def _become_prefetch_process(
    config: PrefetchConfig, listener: socket.socket, startup_process: Optional[int]
) -> NoReturn:
    """Never return: nothing here must become the exit status of a restore_command."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.setsid()
        if os.fork() == 0:
            # Close what is not ours: whoever waits for the end of the server's log, or
            # for a lock around restore_command, would wait for us.
            _close_all_but({listener.fileno(), *config.spool.descriptors()})
            config.spool.enter()
            PrefetchServer(config, listener, startup_process).run()
    except Stopped:
        pass
    except BaseException as error:
        report_internal_error(error)
    finally:
        os._exit(0)


def _close_all_but(keep: Set[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in keep:
            with contextlib.suppress(OSError):  # that of the listing itself is gone
                os.close(descriptor)


def _stop(_number: int, _frame: Optional[FrameType]) -> NoReturn:
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped
