"""Run ssh to the Barman host, with a limit to every wait."""

import contextlib
import math
import os
import re
import subprocess
import time
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Protocol

from walbasin.local.debug import debug
from walbasin.remote.errors import (
    ConnectionLost,
    FetchError,
    HostUnreachable,
    NotInArchive,
    ReadTimeout,
    RemoteError,
)
from walbasin.remote.rate_limit import RateLimit
from walbasin.wal import pipe

# Seconds: to connect, without a sign of life, and for the end of a former master.
CONNECT_LIMIT = 10
SILENCE_LIMIT = 30
FORMER_LIMIT = 2
# Seconds for Barman to decompress or decrypt a segment before it sends the first byte.
# Whether its host lives, ssh's own keepalive tells.
COMPUTE_LIMIT = 600
# Bytes that must come in SILENCE_LIMIT seconds from the first byte of an answer on,
# until it is complete. Less is a trickle, and counts as silence.
LEAST = 64 * 1024
# Seconds without a sign, after which a promotion does not wait for a connection: one
# that is open, and one that is being made or on which Barman has yet to begin. But it
# waits, as a lookup does, for one that has brought something in the last LIVELY: what
# it goes on with would be lost.
QUIET_LIMIT, START_LIMIT, LIVELY = 0.5, 3, 5
# Connections. sshd drops some at random from the eleventh unauthenticated one on
# (MaxStartups 10:30:100).
MOST_CONNECTIONS = 8
# Bytes that are read at a time, that the pipe from ssh holds, and that are kept of
# stderr.
CHUNK = PIPE_SIZE = 1 << 20
STDERR_KEPT = 4096
# ssh's own failures; a remote command that ends so cannot be told from them.
SSH_FAILED = 255
# What ssh adds on stderr when it is verbose, around what matters.
CHATTER = re.compile(r"debug\d: |OpenSSH_|Authenticated to |Transferred: |Bytes per second: ")
# Of these, what ssh says when it was let in.
LET_IN = "Authenticated to "


class Remote(NamedTuple):
    """Hold where Barman is, and as whom to go there.

    user: empty, for the one that ssh's configuration names.
    """

    host: str
    user: str = "barman"
    port: Optional[int] = None
    ssh_config: Optional[str] = None


def ssh_command(
    remote: Remote, command_line: str, log_level: str = "ERROR", control: Optional[str] = None
) -> List[str]:
    """Return the argument vector of one session that runs a command line.

    An empty one makes a master for `control` instead: the socket of a connection of
    ours that several sessions share. Keep the user's own sharing out: a master started
    by it would hold our stderr open for ever, and a dead one would answer for a living
    host.
    """
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_LIMIT,
        "ServerAliveInterval": SILENCE_LIMIT // 3,
        "ServerAliveCountMax": 3,
        "ControlMaster": "no" if command_line else "yes",
        "ControlPath": control or "none",
        "ControlPersist": "no",
        "ClearAllForwardings": "yes",
        "RemoteCommand": "none",
        "LogLevel": log_level,
    }
    command = ["ssh", "-T", "-x", "-a"]
    if remote.ssh_config is not None:
        command += ["-F", remote.ssh_config]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    if remote.port is not None:
        command += ["-p", str(remote.port)]
    if not command_line:
        command.append("-N")
    if remote.user:
        command += ["-l", remote.user]
    return [*command, "--", remote.host, *([command_line] if command_line else [])]


def ssh_environment(environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the environment for ssh, which speaks English.

    Without LD_…: the server may have libraries of its own, with which ssh does not run.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith("LD_")}
    return {**kept, "LC_ALL": "C"}


def printable(text: str) -> str:
    """Return another host's words fit for one line of a log."""
    return "".join(char if char.isprintable() else " " for char in text).strip()[:300]


def error_from_exit(status: int, stderr: str, host: str, has_answered: bool = False) -> FetchError:
    """Return why a session failed that ended with `status` (negative: a signal).

    stderr: its output there. has_answered: whether something had come before.
    """
    lines = [line for line in map(printable, stderr.splitlines()) if line and not CHATTER.match(line)]
    output = lines[-1] if lines else "it ended without a word"
    if status == SSH_FAILED:
        failed = f"ssh to {host} failed: {output}"
        return ConnectionLost(failed) if has_answered else HostUnreachable(failed)
    if status < 0:
        return FetchError(f"ssh to {host} was killed by signal {-status}")
    if status == 127:
        return RemoteError(f"barman is not in the PATH that ssh gives on {host}: {output}")
    return RemoteError(f"barman get-wal on {host} ended with status {status}: {output}")


class Connection:
    """Run one ssh, with a limit to its silence. Subclasses say what it is for."""

    # How much ssh says on stderr.
    LOG_LEVEL = "ERROR"

    def __init__(
        self,
        remote: Remote,
        command_line: str,
        on_stderr: Optional[Callable[[str], None]] = None,
        control: Optional[str] = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """Start ssh. Raises FetchError when that fails."""
        self.remote = remote
        self.on_stderr = on_stderr
        self.stderr = ""
        self.has_answered = False
        log_level = "DEBUG1" if on_stderr is not None else self.LOG_LEVEL
        command = ssh_command(remote, command_line, log_level, control)
        try:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ssh_environment(os.environ)
            )
        except OSError as error:
            raise FetchError(f"cannot start ssh: {error.strerror}") from error
        debug(f"ssh {self.process.pid} to {remote.host} starts: {command_line or 'a shared connection'}")
        assert self.process.stdout and self.process.stderr
        self.stdout = self.process.stdout.fileno()
        self.has_large_pipe = pipe.resize(self.stdout, PIPE_SIZE)
        self.descriptors = (self.stdout, self.process.stderr.fileno())
        # The limit to connect is ssh's; a host that has accepted may still be silent.
        self.last_sign = time.monotonic()
        self.deadline = self.last_sign + CONNECT_LIMIT + SILENCE_LIMIT
        # When bytes of a file, or of other output, have come.
        self.brought_at = -math.inf
        self._brought = 0
        # Bytes that have come since the time limit was last moved.
        self._counted = 0
        # What all connections of the loop may read together.
        self.rate_limit: Optional[RateLimit] = None

    def receive(self, descriptor: int) -> bool:
        """Read what is there. Return False at the end of that pipe."""
        if descriptor == self.stdout:
            return self.receive_stdout()
        data = os.read(descriptor, CHUNK)
        text = data.decode("utf-8", "replace")
        self.receive_stderr(text)
        self.stderr = (self.stderr + text)[-STDERR_KEPT:]
        if self.on_stderr is not None:
            self.on_stderr(text)
        return bool(data)

    def receive_stderr(self, text: str) -> None:
        """Take what ssh, or a program behind it, says: it is no answer."""

    def silence_limit(self) -> int:
        """Return the seconds that the other side may be silent now."""
        return SILENCE_LIMIT

    def touch(self) -> None:
        """Note that an answer begins, goes on or is complete: its time starts anew."""
        self.last_sign = time.monotonic()
        self.deadline = self.last_sign + self.silence_limit()
        self._counted = 0

    def count(self, received: int) -> None:
        """Note that bytes of an answer have come. A trickle of them gains no time."""
        self.last_sign = self.brought_at = time.monotonic()
        if self.rate_limit is not None:
            self.rate_limit.spend(received)
        self._counted += received
        self._brought += received
        if self._counted >= LEAST:
            self.touch()

    def take_brought(self) -> int:
        """Return the bytes that have come since the last call."""
        brought, self._brought = self._brought, 0
        return brought

    def may_read(self, most: int) -> int:
        """Return how many bytes of a file may be read now, `most` at most."""
        return most if self.rate_limit is None else min(most, self.rate_limit.allowance())

    def resume(self, seconds: float) -> None:
        """Go on after a pause in which nobody has read: it was no silence."""
        self.last_sign += seconds
        self.deadline += seconds

    def names(self) -> List[str]:
        """Return the files that it brings, or will bring."""
        return []

    def has_begun(self) -> bool:
        """Return whether what is awaited needs no more time to begin."""
        return self.has_answered

    def is_quiet(self) -> bool:
        """Return whether a promotion need not wait for what may come."""
        limit = QUIET_LIMIT if self.has_begun() else START_LIMIT
        now = time.monotonic()
        return now - self.last_sign > limit and now - self.brought_at > LIVELY

    def receive_stdout(self) -> bool:
        """Read what is there. Return False at the end."""
        raise NotImplementedError

    def end(self, error: Optional[Exception]) -> None:
        """Take note of the end, once. error: what went wrong, or None."""
        raise NotImplementedError

    def result(self) -> Optional[Exception]:
        """Return what went wrong, or None, after both pipes have ended."""
        try:
            status = self.process.wait(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self.timeout_error()
        return self.result_of(status)

    def result_of(self, status: int) -> Optional[Exception]:
        """Return None for a good exit status, else what went wrong."""
        return error_from_exit(status, self.stderr, self.remote.host, self.has_answered)

    def timeout_error(self) -> FetchError:
        """Return the error of a connection that was silent for too long."""
        if self.has_answered:
            # What came before a silence does not make a trickle of it.
            limit = self.silence_limit()
            if time.monotonic() - self.last_sign > limit / 2:
                return ReadTimeout(f"{self.remote.host} said nothing for {limit} seconds")
            trickle = f"{self._counted} bytes in {limit} seconds, and {LEAST} are the least"
            return ReadTimeout(f"{self.remote.host} sends too slowly: {trickle}")
        return HostUnreachable(f"{self.remote.host} said nothing for {CONNECT_LIMIT + SILENCE_LIMIT} seconds")

    def close(self) -> None:
        """End ssh, and reap it."""
        if self.process.poll() is None:
            self.process.kill()
        debug(f"ssh {self.process.pid} ended with {self.process.wait()}")
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class RemoteCommand(Protocol):
    """Describe what is run on another host."""

    def command_line(self) -> str:
        """Return what goes to the shell there."""

    def means_absent(self, status: int, stderr: str) -> bool:
        """Return whether its end means that there is no such file."""


class Session(Connection):
    """Run one remote command, `barman get-wal` as a rule.

    on_end is called once, with None after success or with what went wrong. Whatever
    on_data raises ends the session.
    """

    # That it was let in, too.
    LOG_LEVEL = "VERBOSE"

    def __init__(
        self,
        remote: Remote,
        command: RemoteCommand,
        on_data: Callable[[bytes], None],
        on_end: Callable[[Optional[Exception]], None],
        *,
        on_stderr: Optional[Callable[[str], None]] = None,
        control: Optional[str] = None,
    ) -> None:
        super().__init__(remote, command.command_line(), on_stderr, control)
        self.command = command
        self.on_data = on_data
        self.on_end = on_end
        self._is_let_in = False
        if control is not None:  # a connection that is shared was let in before
            self._await_answer()

    def _await_answer(self) -> None:
        """Give Barman time to compute, once: words on stderr do not prolong it."""
        self._is_let_in = True
        self.deadline = time.monotonic() + COMPUTE_LIMIT

    def receive_stderr(self, text: str) -> None:
        if not self._is_let_in and not self.has_answered and LET_IN in self.stderr + text:
            self._await_answer()

    def timeout_error(self) -> FetchError:
        if self._is_let_in and not self.has_answered:
            return RemoteError(f"Barman on {self.remote.host} has sent nothing for {COMPUTE_LIMIT} seconds")
        return super().timeout_error()

    def names(self) -> List[str]:
        # Of what is no file, no name.
        return [getattr(self.command, "wal_name", "")]

    def receive_stdout(self) -> bool:
        most = self.may_read(CHUNK)
        if most == 0:
            return True
        data = os.read(self.stdout, most)
        if data:
            if not self.has_answered:
                self.has_answered = True
                self.touch()
            self.count(len(data))
            self.on_data(data)
        return bool(data)

    def result_of(self, status: int) -> Optional[Exception]:
        if status == 0:
            return None
        if self.command.means_absent(status, self.stderr):
            return NotInArchive()
        return super().result_of(status)

    def end(self, error: Optional[Exception]) -> None:
        self.on_end(error)


class ControlMaster(Connection):
    """Hold the connection that several sessions share, through a socket.

    on_lost is called once, when it has ended.
    """

    def __init__(self, remote: Remote, control: str, on_lost: Callable[[Exception], None]) -> None:
        """Start it, and end the master of a killed process. Raises FetchError."""
        if os.path.lexists(control):
            _end_former(control)
        super().__init__(remote, "", control=control)
        self._control = control
        self._on_lost = on_lost

    def is_ready(self) -> bool:
        """Return whether sessions may start: ssh was let in and made the socket."""
        if not self.has_answered and os.path.exists(self._control):
            self.has_answered = True
            self.deadline = math.inf  # ssh's own keepalive notices a dead host
        return self.has_answered

    def receive_stdout(self) -> bool:
        return bool(os.read(self.stdout, CHUNK))

    def end(self, error: Optional[Exception]) -> None:
        self._on_lost(error or RemoteError(f"{self.remote.host} ended the connection"))


def _end_former(control: str) -> None:
    """End the master of a process that was killed: it lives on by itself."""
    command = ["ssh", "-F", "none", "-o", f"ControlPath={control}", "-O", "exit", "--", "former"]
    null = subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, stdin=null, stdout=null, stderr=null, timeout=FORMER_LIMIT, check=False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(control)
