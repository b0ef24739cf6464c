"""ssh to the Barman host: one session for each request, several side by side, and a limit to every wait."""

import contextlib
import os
import re
import selectors
import subprocess
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Set

from walbasin import getwal, segment
from walbasin.getwal import Request

CONNECT_LIMIT = 10
SILENCE_LIMIT = 30
CHUNK = 1 << 20
STDERR_KEPT = 4096
# ssh's own failures; a remote command that ends so is indistinguishable from them.
SSH_FAILED = 255
# What ssh adds on stderr when it is verbose, around what matters.
CHATTER = re.compile(r"debug\d: |OpenSSH_|Authenticated to |Transferred: |Bytes per second: ")


class Unreachable(Exception):
    """The request was not answered; the text is the cause. `is_connection`: Barman's host itself was not reached."""

    def __init__(self, cause: str, is_connection: bool = False) -> None:
        super().__init__(cause)
        self.is_connection = is_connection


class Absent(Exception):
    """Barman answered that the file is not in the archive."""


class Remote(NamedTuple):
    """Where Barman is, and as whom."""

    host: str
    user: str = "barman"
    port: Optional[int] = None
    ssh_config: Optional[str] = None


def ssh_command(remote: Remote, request: Request, verbose: bool = False) -> List[str]:
    """The argument vector of one session.

    Connection sharing of the user's own is kept out: a master started here would hold our stderr open for ever, and a
    dead one would answer for a living host.
    """
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_LIMIT,
        "ServerAliveInterval": SILENCE_LIMIT // 3,
        "ServerAliveCountMax": 3,
        "ControlMaster": "no",
        "ControlPath": "none",
        "ClearAllForwardings": "yes",
        "RemoteCommand": "none",
        "LogLevel": "DEBUG1" if verbose else "ERROR",
    }
    command = ["ssh", "-T", "-x", "-a"]
    if remote.ssh_config is not None:
        command += ["-F", remote.ssh_config]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    if remote.port is not None:
        command += ["-p", str(remote.port)]
    return [*command, "-l", remote.user, "--", remote.host, getwal.command_line(request)]


def printable(text: str) -> str:
    """What another host said, fit for one line of a log."""
    return "".join(char if char.isprintable() else " " for char in text).strip()[:300]


def cause(status: int, stderr: str, host: str) -> Unreachable:
    """What made a session fail that ended with `status` (negative: a signal) and said `stderr`."""
    lines = [line for line in map(printable, stderr.splitlines()) if line and not CHATTER.match(line)]
    said = lines[-1] if lines else "it said nothing"
    if status == SSH_FAILED:
        return Unreachable(f"ssh to {host} failed: {said}", is_connection=True)
    if status < 0:
        return Unreachable(f"ssh to {host} was killed by signal {-status}")
    if status == 127:
        return Unreachable(f"barman is not in the PATH that ssh gives on {host}: {said}")
    return Unreachable(f"barman get-wal on {host} ended with status {status}: {said}")


class Session:
    """One request on its way. `on_end` is called once, with None after success or with what went wrong.

    It is told to stop by whatever `on_data` raises.
    """

    def __init__(
        self,
        remote: Remote,
        request: Request,
        on_data: Callable[[bytes], None],
        on_end: Callable[[Optional[Exception]], None],
        on_stderr: Optional[Callable[[str], None]] = None,
    ) -> None:
        self.remote = remote
        self.request = request
        self.on_data = on_data
        self.on_end = on_end
        self.on_stderr = on_stderr
        self.stderr = ""
        self.has_answered = False
        try:
            self.process = subprocess.Popen(
                ssh_command(remote, request, verbose=on_stderr is not None),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise Unreachable(f"cannot start ssh: {error.strerror}") from error
        assert self.process.stdout and self.process.stderr
        self.pipes = {self.process.stdout.fileno(): False, self.process.stderr.fileno(): True}
        # The limit to connect is ssh's; a host that has accepted may still be silent.
        self.deadline = time.monotonic() + CONNECT_LIMIT + SILENCE_LIMIT

    def receive(self, descriptor: int) -> bool:
        """Read what is there. False at the end of that pipe."""
        data = os.read(descriptor, CHUNK)
        if not data:
            return False
        self.deadline = time.monotonic() + SILENCE_LIMIT
        if self.pipes[descriptor]:
            text = data.decode("utf-8", "replace")
            self.stderr = (self.stderr + text)[-STDERR_KEPT:]
            if self.on_stderr is not None:
                self.on_stderr(text)
        else:
            self.has_answered = True
            self.on_data(data)
        return True

    def outcome(self) -> Optional[Exception]:
        """None when the remote command ended well, after both pipes have ended."""
        try:
            status = self.process.wait(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self.silence()
        if status == 0:
            return None
        # Barman's exit status 1 covers its other errors too: only its own words are a "no".
        if status == 1 and f"WAL file '{self.request.wal_name}' not found in server" in self.stderr:
            return Absent(self.request.wal_name)
        return cause(status, self.stderr, self.remote.host)

    def silence(self) -> Unreachable:
        limit = SILENCE_LIMIT if self.has_answered else CONNECT_LIMIT + SILENCE_LIMIT
        return Unreachable(f"{self.remote.host} said nothing for {limit} seconds", is_connection=not self.has_answered)

    def close(self) -> None:
        """End ssh, and reap it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Sessions:
    """All sessions of a call. Leaving the block ends those that are still there."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._open: Dict[Session, Set[int]] = {}

    def __enter__(self) -> "Sessions":
        return self

    def __exit__(self, *_: object) -> None:
        for session in list(self._open):
            self._forget(session)
        self._selector.close()

    def __len__(self) -> int:
        return len(self._open)

    def start(self, session: Session) -> None:
        self._open[session] = set(session.pipes)
        for descriptor in session.pipes:
            self._selector.register(descriptor, selectors.EVENT_READ, session)

    def attend(self) -> None:
        """Wait for the next thing to happen to any of them, and deal with it."""
        nearest = min((session.deadline for session in self._open), default=time.monotonic())
        for key, _ in self._selector.select(max(0.0, nearest - time.monotonic())):
            session: Session = key.data
            if session in self._open:
                self._receive(session, key.fd)
        for session in [one for one in self._open if one.deadline <= time.monotonic()]:
            self._end(session, session.silence())

    def _receive(self, session: Session, descriptor: int) -> None:
        try:
            is_open = session.receive(descriptor)
        except (segment.Invalid, OSError) as error:
            self._end(session, error)
            return
        if not is_open:
            self._selector.unregister(descriptor)
            self._open[session].discard(descriptor)
            if not self._open[session]:
                self._end(session, session.outcome())

    def _end(self, session: Session, error: Optional[Exception]) -> None:
        self._forget(session)
        session.on_end(error)

    def _forget(self, session: Session) -> None:
        for descriptor in self._open.pop(session):
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)
        session.close()


def run(sessions: Sessions, is_done: Callable[[], bool]) -> None:
    """Attend to sessions until it is done, or until none is left."""
    while len(sessions) and not is_done():
        sessions.attend()
