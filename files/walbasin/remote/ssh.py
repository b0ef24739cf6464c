"""ssh to the Barman host: one session for each request, several side by side, and a limit to every wait."""

import contextlib
import math
import os
import re
import selectors
import subprocess
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Protocol, Set

from walbasin.wal import segment

CONNECT_LIMIT = 10
SILENCE_LIMIT = 30
FORMER_LIMIT = 2
# sshd drops connections at random from the eleventh unauthenticated one on (MaxStartups 10:30:100).
MOST_CONNECTIONS = 8
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


class Lost(Unreachable):
    """The connection ended in the middle of an answer; another may bring it."""


class Silent(Unreachable):
    """Nothing was heard for as long as there is patience for."""


class Absent(Exception):
    """Barman answered that the file is not in the archive."""


class Remote(NamedTuple):
    """Where Barman is, and as whom."""

    host: str
    user: str = "barman"
    port: Optional[int] = None
    ssh_config: Optional[str] = None


def ssh_command(remote: Remote, line: str, verbose: bool = False, control: Optional[str] = None) -> List[str]:
    """The argument vector of one session that runs `line`; an empty line makes a master for `control` instead.

    `control` is the socket of a connection that several sessions share, one of ours. Sharing of the user's own is kept
    out: a master started by it would hold our stderr open for ever, and a dead one would answer for a living host.
    """
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_LIMIT,
        "ServerAliveInterval": SILENCE_LIMIT // 3,
        "ServerAliveCountMax": 3,
        "ControlMaster": "no" if line else "yes",
        "ControlPath": control or "none",
        "ControlPersist": "no",
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
    if not line:
        command.append("-N")
    return [*command, "-l", remote.user, "--", remote.host, *([line] if line else [])]


def printable(text: str) -> str:
    """What another host said, fit for one line of a log."""
    return "".join(char if char.isprintable() else " " for char in text).strip()[:300]


def cause(status: int, stderr: str, host: str, has_answered: bool = False) -> Unreachable:
    """What made a session fail that ended with `status` (negative: a signal) and said `stderr`."""
    lines = [line for line in map(printable, stderr.splitlines()) if line and not CHATTER.match(line)]
    said = lines[-1] if lines else "it ended without a word"
    if status == SSH_FAILED:
        failed = f"ssh to {host} failed: {said}"
        return Lost(failed) if has_answered else Unreachable(failed, is_connection=True)
    if status < 0:
        return Unreachable(f"ssh to {host} was killed by signal {-status}")
    if status == 127:
        return Unreachable(f"barman is not in the PATH that ssh gives on {host}: {said}")
    return Unreachable(f"barman get-wal on {host} ended with status {status}: {said}")


class Connection:
    """An ssh on its way, with a limit to its silence. What it is for is said by those that are made from it."""

    def __init__(
        self,
        remote: Remote,
        line: str,
        on_stderr: Optional[Callable[[str], None]] = None,
        control: Optional[str] = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """Raises Unreachable when ssh cannot be started."""
        self.remote = remote
        self.on_stderr = on_stderr
        self.stderr = ""
        self.has_answered = False
        command = ssh_command(remote, line, verbose=on_stderr is not None, control=control)
        try:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}
            )
        except OSError as error:
            raise Unreachable(f"cannot start ssh: {error.strerror}") from error
        assert self.process.stdout and self.process.stderr
        self.stdout = self.process.stdout.fileno()
        self.descriptors = (self.stdout, self.process.stderr.fileno())
        # The limit to connect is ssh's; a host that has accepted may still be silent.
        self.heard_at = time.monotonic()
        self.deadline = self.heard_at + CONNECT_LIMIT + SILENCE_LIMIT

    def receive(self, descriptor: int) -> bool:
        """Read what is there. False at the end of that pipe."""
        if descriptor == self.stdout:
            return self.receive_stdout()
        data = os.read(descriptor, CHUNK)
        self.heard()
        text = data.decode("utf-8", "replace")
        self.stderr = (self.stderr + text)[-STDERR_KEPT:]
        if self.on_stderr is not None:
            self.on_stderr(text)
        return bool(data)

    def heard(self) -> None:
        """The other side is alive."""
        self.heard_at = time.monotonic()
        self.deadline = self.heard_at + SILENCE_LIMIT

    def receive_stdout(self) -> bool:
        raise NotImplementedError

    def end(self, error: Optional[Exception]) -> None:
        """Called once: both pipes have ended (then error is what `outcome` says), or it was given up."""
        raise NotImplementedError

    def outcome(self) -> Optional[Exception]:
        """None when the remote command ended well, after both pipes have ended."""
        try:
            status = self.process.wait(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self.silence()
        return self.verdict(status)

    def verdict(self, status: int) -> Optional[Exception]:
        return cause(status, self.stderr, self.remote.host, self.has_answered)

    def silence(self) -> Silent:
        limit = SILENCE_LIMIT if self.has_answered else CONNECT_LIMIT + SILENCE_LIMIT
        return Silent(f"{self.remote.host} said nothing for {limit} seconds", is_connection=not self.has_answered)

    def close(self) -> None:
        """End ssh, and reap it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Question(Protocol):
    """What is asked on another host: the command line, and whether its end means that there is no such file."""

    def line(self) -> str: ...

    def is_absent(self, status: int, stderr: str) -> bool: ...


class Session(Connection):
    """One question on its way, `barman get-wal` as a rule.

    `on_end` is called once, with None after success or with what went wrong. It is told to stop by whatever `on_data`
    raises.
    """

    def __init__(
        self,
        remote: Remote,
        question: Question,
        on_data: Callable[[bytes], None],
        on_end: Callable[[Optional[Exception]], None],
        *,
        on_stderr: Optional[Callable[[str], None]] = None,
        control: Optional[str] = None,
    ) -> None:
        super().__init__(remote, question.line(), on_stderr, control)
        self.question = question
        self.on_data = on_data
        self.on_end = on_end

    def receive_stdout(self) -> bool:
        data = os.read(self.stdout, CHUNK)
        if data:
            self.heard()
            self.has_answered = True
            self.on_data(data)
        return bool(data)

    def verdict(self, status: int) -> Optional[Exception]:
        if status == 0:
            return None
        if self.question.is_absent(status, self.stderr):
            return Absent()
        return super().verdict(status)

    def end(self, error: Optional[Exception]) -> None:
        self.on_end(error)


class Master(Connection):
    """The connection that several sessions share, through a socket. `on_lost` is called once, when it has ended."""

    def __init__(self, remote: Remote, control: str, on_lost: Callable[[Exception], None]) -> None:
        if os.path.lexists(control):
            _end_former(control)
        super().__init__(remote, "", control=control)
        self._control = control
        self._on_lost = on_lost

    def is_ready(self) -> bool:
        """Sessions may start: ssh makes the socket when it was let in."""
        if not self.has_answered and os.path.exists(self._control):
            self.has_answered = True
            self.deadline = math.inf  # ssh's own keepalive notices a dead one
        return self.has_answered

    def receive_stdout(self) -> bool:
        return bool(os.read(self.stdout, CHUNK))

    def end(self, error: Optional[Exception]) -> None:
        self._on_lost(error or Unreachable(f"{self.remote.host} ended the connection"))


def _end_former(control: str) -> None:
    """The master of a process that was killed lives on: nothing that it waits for ended with that process."""
    command = ["ssh", "-F", "none", "-o", f"ControlPath={control}", "-O", "exit", "--", "former"]
    null = subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, stdin=null, stdout=null, stderr=null, timeout=FORMER_LIMIT, check=False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(control)


class Sessions:
    """All ssh connections of a process, and what else it waits for. Leaving the block ends what is still there."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._open: Dict[Connection, Set[int]] = {}

    def __enter__(self) -> "Sessions":
        return self

    def __exit__(self, *_: object) -> None:
        for session in list(self._open):
            self.drop(session)
        self._selector.close()

    def __len__(self) -> int:
        return len(self._open)

    def start(self, session: Connection) -> None:
        self._open[session] = set(session.descriptors)
        for descriptor in session.descriptors:
            self._selector.register(descriptor, selectors.EVENT_READ, session)

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call back whenever there is something to read."""
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def unwatch(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def attend(self, limit: float = SILENCE_LIMIT) -> None:
        """Wait for the next thing to happen to any of them, `limit` seconds at most, and deal with it."""
        nearest = min((session.deadline for session in self._open), default=math.inf) - time.monotonic()
        for key, _ in self._selector.select(max(0.0, min(nearest, limit))):
            if not isinstance(key.data, Connection):
                key.data()
            elif key.data in self._open:
                self._receive(key.data, key.fd)
        for session in [one for one in self._open if one.deadline <= time.monotonic()]:
            self.give_up(session, session.silence())

    def _receive(self, session: Connection, descriptor: int) -> None:
        try:
            is_open = session.receive(descriptor)
        except (Unreachable, segment.Invalid, OSError) as error:
            self.give_up(session, error)
            return
        if not is_open and session in self._open:
            self._selector.unregister(descriptor)
            self._open[session].discard(descriptor)
            if not self._open[session]:
                self.give_up(session, session.outcome())

    def give_up(self, session: Connection, error: Optional[Exception]) -> None:
        """End one, and tell it why."""
        self.drop(session)
        session.end(error)

    def drop(self, session: Connection) -> None:
        """End one without asking it what it makes of that."""
        for descriptor in self._open.pop(session):
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)
        session.close()


def run(sessions: Sessions, is_done: Callable[[], bool]) -> None:
    """Attend to sessions until it is done, or until none is left."""
    while len(sessions) and not is_done():
        sessions.attend()
