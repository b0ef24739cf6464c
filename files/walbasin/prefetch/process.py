"""The background process behind -p: a basin for one cluster, in a session of its own, with its own reasons to end.

Callers reach it through a socket in the cluster's spool. The first one that finds none starts it: holding the spool's
lock it makes the socket, then forks. So nobody waits for it to come up, and there are never two.
"""

import contextlib
import os
import signal
import socket
import time
from types import FrameType
from typing import Dict, NamedTuple, NoReturn, Optional, Set

from walbasin import policy
from walbasin.local import data_directory, ipc, whole_file
from walbasin.local.data_directory import Cluster
from walbasin.local.spool import Spool
from walbasin.prefetch import counters
from walbasin.prefetch.counters import Record
from walbasin.prefetch.prefetcher import Answer, Basin
from walbasin.remote.archive import Archive
from walbasin.remote.ssh import Sessions, printable
from walbasin.wal import segment

# A standby that streams asks for nothing.
IDLE_LIMIT = 60.0
# How often to look whether the server is still there, and to tell callers that we are.
TICK = 1.0
BACKLOG = 8
# All that a pipe holds, so that no line is cut.
BELL_LENGTH = 65536


class Stopped(BaseException):
    """SIGTERM: the service stops."""


class Service(NamedTuple):
    """For whom it works, and how. Callers with another `fingerprint` (their version and options) want another one."""

    spool: Spool
    cluster: Cluster
    archive: Archive
    jobs: int
    fingerprint: str


class Background:
    """What the process does from its start to its end."""

    def __init__(self, service: Service, door: socket.socket, startup_process: Optional[int]) -> None:
        self.spool = service.spool
        self.own = service.cluster
        self.fingerprint = service.fingerprint
        self.door = door
        self.server = data_directory.postmaster(self.own)
        self.startup_process = startup_process
        self.sessions = Sessions()
        self.basin = Basin(
            service.spool, service.archive, service.jobs, data_directory.segment_size(self.own), self.sessions
        )
        self.callers: Dict[socket.socket, bytes] = {}
        self.record = Record(self.spool.noted(counters.FILE))
        self.recorded = self.record.dump()
        self.not_taken: Set[str] = set()
        self.is_ending = False
        self.last_use = time.monotonic()

    def run(self) -> None:
        """Until there is a reason to end. Then the spool is empty, and no ssh is left."""
        bell = self.spool.open_bell()
        self.spool.publish(self.own)
        with contextlib.suppress(OSError):
            whole_file.sweep(self.own.path("pg_wal"), "RECOVERYXLOG")
        try:
            with self.sessions:
                self.sessions.watch(self.door.fileno(), self._admit)
                self.sessions.watch(bell, lambda: self._hear(bell))
                self._watch_server()
                next_tick = time.monotonic() + TICK
                while not self.is_ending:
                    wait = 0.02 if self.basin.source.is_waiting() else next_tick - time.monotonic()
                    self.sessions.attend(max(0.0, min(wait, TICK)))
                    if self.basin.source.is_waiting() or time.monotonic() >= next_tick:
                        self.basin.tick()
                    if time.monotonic() >= next_tick:
                        next_tick = time.monotonic() + TICK
                        self.is_ending |= self._is_over()
                        self._reassure()
                        self._keep_record()
        finally:
            self._keep_record()
            self.spool.clear()

    def _watch_server(self) -> None:
        """End before it does, so that whoever stops the service finds nobody left to wait for.

        A systemd that is not told of empty control groups (version 1, in a container) was seen to wait for ever. When a
        server stops, its startup process is the first to go, and the postmaster the last.
        """
        if self.server is None or not hasattr(os, "pidfd_open"):  # from Python 3.9 on; otherwise the next tick sees it
            return
        for process in (self.startup_process, int(self.server.split(".")[0])):
            with contextlib.suppress(OSError):
                if process is not None:
                    self.sessions.watch(os.pidfd_open(process), self._end)

    def _end(self) -> None:
        self.is_ending = True

    def _is_over(self) -> bool:
        """Idle, without its server, promoted, or with a spool that was taken away."""
        is_idle = not self.basin.has_work() and time.monotonic() - self.last_use > IDLE_LIMIT
        is_promoted = self.server is not None and not data_directory.is_recovering(self.own)
        is_gone = (
            data_directory.postmaster(self.own) != self.server
            or data_directory.read(self.own.data_directory) != self.own
        )
        return is_idle or is_promoted or is_gone or self.spool.is_gone()

    # Callers.

    def _admit(self) -> None:
        caller, _ = self.door.accept()
        caller.setblocking(False)
        self.callers[caller] = b""
        self.sessions.watch(caller.fileno(), lambda: self._listen(caller))

    def _listen(self, caller: socket.socket) -> None:
        if caller not in self.callers:  # dismissed in this very round
            return
        try:
            data = caller.recv(ipc.LONGEST)
        except OSError:
            data = b""
        line, end, rest = (self.callers[caller] + data).partition(b"\n")
        self.callers[caller] = rest if end else line
        if end:
            self._serve(caller, line)
        elif not data or len(self.callers[caller]) > ipc.LONGEST:
            self._dismiss(caller)

    def _serve(self, caller: socket.socket, line: bytes) -> None:
        self.last_use = time.monotonic()
        name, _, fingerprint = line.decode("utf-8", "replace").partition("\t")
        if fingerprint != self.fingerprint:
            # Options or version are others now. Without an answer the caller waits for the lock, and starts another.
            self._end()
        elif segment.is_file(name):
            asked = self.last_use
            self.basin.ask(name, lambda answer: self._answer(caller, name, asked, answer))
        else:
            self._dismiss(caller)

    def _answer(self, caller: socket.socket, name: str, asked: float, answer: Answer) -> None:
        self.last_use = time.monotonic()
        self.record.note_answer(name, answer.outcome, answer.detail, self.last_use - asked)
        if answer.outcome == policy.DELIVERED:
            self.not_taken.add(name)
        mode = data_directory.recovery_mode(self.own)
        if answer.is_outage:
            self.spool.note_outage()
        elif answer.outcome != policy.UNKNOWN:
            self.spool.end_outage()
        fields = (answer.outcome, mode, printable(answer.detail), "1" if answer.is_outage else "")
        self._send(caller, "\t".join(fields).encode() + b"\n")

    def _reassure(self) -> None:
        """Whoever waits, waits for a living process."""
        for caller in list(self.callers):
            self._send(caller, b"\n")

    def _send(self, caller: socket.socket, data: bytes) -> None:
        if caller in self.callers:
            try:
                caller.send(data)
            except OSError:
                self._dismiss(caller)

    def _dismiss(self, caller: socket.socket) -> None:
        del self.callers[caller]
        self.sessions.unwatch(caller.fileno())
        caller.close()

    def _hear(self, bell: int) -> None:
        """Segments were taken: each a line, with the uptime at which a shell began to wait for it, if it had to."""
        self.last_use = time.monotonic()
        for line in os.read(bell, BELL_LENGTH).decode("ascii", "replace").splitlines():
            name, _, since = line.partition(" ")
            if segment.is_segment(name):
                waited = max(0.0, _uptime() - float(since)) if since else 0.0
                self.record.note_taken(name, self.basin.size, not since and name not in self.not_taken, waited)
            self.not_taken.discard(name)
        self.basin.pump()

    def _keep_record(self) -> None:
        text = self.record.dump()
        if text != self.recorded:
            self.spool.note(counters.FILE, text)
            self.recorded = text


def _uptime() -> float:
    """As the shell sees it: a container may have one of its own."""
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


def may_run(own: Cluster) -> bool:
    """Not where process 1 is the postmaster: it would inherit us, and take our end for a backend's crash."""
    server = data_directory.postmaster(own)
    return server is None or server.split(".")[0] != "1"


def start(service: Service) -> bool:
    """Start it, with its socket in place when this returns. False when another process is at it. Raises OSError."""
    if not service.spool.claim():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        service.spool.bind(door, ipc.SOCKET)
        door.listen(BACKLOG)
        startup_process = data_directory.startup_process(data_directory.postmaster(service.cluster))
        child = os.fork()
        if child == 0:
            _become_background(service, door, startup_process)
    os.waitpid(child, 0)
    return True


def _become_background(service: Service, door: socket.socket, startup_process: Optional[int]) -> NoReturn:
    """Never returns: whatever goes wrong here must not become the exit status of a restore_command."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.setsid()
        if os.fork() == 0:
            # Nothing of the server's may stay open: whoever waits for the end of its log would wait for us.
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            service.spool.enter()
            Background(service, door, startup_process).run()
    except BaseException as error:
        if not isinstance(error, Stopped):
            import syslog

            syslog.openlog("barman-wal-restore", syslog.LOG_PID)
            syslog.syslog(syslog.LOG_ERR, f"the background process ends: {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def _stop(_number: int, _frame: Optional[FrameType]) -> NoReturn:
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped
