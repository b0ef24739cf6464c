"""Run commands on a host over one connection of OpenSSH, with a limit to each.

OpenSSH, because Ansible uses it: what is set for Ansible holds here too. Unlike
Ansible: an unknown host key is refused, whatever the inventory says.
"""

import contextlib
import os
import re
import selectors
import shlex
import subprocess
import tempfile
import threading
import time
from typing import NamedTuple

from .inventory import Access
from .text import ConsoleError

# Seconds: to reach a host, and until it has let us in.
CONNECT_LIMIT = 10
LOGIN_LIMIT = 30
# Seconds for the end of a connection that is not needed any more.
CLOSE_LIMIT = 2
# Seconds until ssh notices the end of a connection, after a command that failed.
END_LIMIT = 1
# Seconds between two looks whether we are in.
STEP = 0.02
# Bytes that are read at a time.
CHUNK = 1 << 16
# ssh's own failures end with this status.
FAILED = 255
# What ssh says last when it does not trust a host's key, and the lines that say why.
UNTRUSTED = "Host key verification failed"
NOT_LISTED = "host key is known for"
REASON = re.compile(rf"{NOT_LISTED}|host key for .* has changed|host key .* is marked as revoked", re.IGNORECASE)


class HostKeyUnknown(ConsoleError):
    """Report that a host's key is not known here, so that nothing was asked."""


class Completed(NamedTuple):
    """Hold how a command has ended."""

    status: int
    stdout: str
    stderr: str


def quoted(path: str) -> str:
    """Return a file's name for an option of ssh, where % and blanks have a meaning."""
    return '"{}"'.format(os.path.expanduser(path).replace("%", "%%"))


def options(access: Access, known_hosts: str | None, identity: list[str], control: str) -> list[str]:
    """Return ssh's options for a connection that others share through `control`.

    The first value of an option wins, so that ours come before the inventory's.
    known_hosts: a file; None: those that ssh knows. identity: files of private keys;
    none: as the inventory says.
    """
    ours: list[tuple[str, object]] = [
        ("BatchMode", "yes"),
        ("StrictHostKeyChecking", "yes"),
        ("UpdateHostKeys", "no"),
        ("ConnectTimeout", CONNECT_LIMIT),
        ("ServerAliveInterval", CONNECT_LIMIT),
        ("ServerAliveCountMax", 3),
        ("ControlMaster", "yes"),
        ("ControlPath", quoted(control)),
        ("ControlPersist", "no"),
        ("ClearAllForwardings", "yes"),
        ("RemoteCommand", "none"),
        ("LogLevel", "ERROR"),
    ]
    if known_hosts:
        ours += [("UserKnownHostsFile", quoted(known_hosts)), ("GlobalKnownHostsFile", "none")]
    if identity:
        ours.append(("IdentitiesOnly", "yes"))
    keys = identity or ([access.private_key_file] if access.private_key_file else [])
    ours += [("IdentityFile", quoted(key)) for key in keys]
    words = ["-T", "-x", "-a", *(word for name, value in ours for word in ("-o", f"{name}={value}"))]
    words += ["-p", access.port] if access.port else []
    words += ["-l", access.remote_user] if access.remote_user else []
    return words + [
        word for text in (access.ssh_args, access.ssh_common_args, access.ssh_extra_args) for word in shlex.split(text)
    ]


def login_error(host: str, stderr: str) -> ConsoleError:
    """Return why ssh could not log in on a host, from what it said."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not any(UNTRUSTED in line for line in lines):
        return ConsoleError(f"{host}: {lines[-1] if lines else 'ssh ended without a word'}")
    reason = next(filter(REASON.search, lines), lines[-1])
    advice = (
        "Put it into known_hosts, or name a file that has it with --known-hosts"
        if NOT_LISTED in reason
        else "Find out why, before you change known_hosts"
    )
    return HostKeyUnknown(f"{host}: host key not known: {reason} {advice}")


class Connection:
    """Hold one connection to a host. It is made when the first command is run.

    It ends with this process, whatever happens: the other end reads from our pipe.
    """

    def __init__(self, name: str, access: Access, known_hosts: str | None, identity: list[str]) -> None:
        """Prepare the connection. name: the host's, for messages."""
        self._name = name
        self._access = access
        self._keys = (known_hosts, identity)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()
        self._is_ended = False

    def run(self, command: str, limit: int, most: int, stdin: str = "") -> Completed:
        """Run a command for a shell on the host, and return how it has ended.

        limit: in seconds. most: bytes of its output. stdin: what it reads.
        Raises ConsoleError, HostKeyUnknown, TimeoutError, OverflowError.
        """
        self._log_in()
        # Where there is no connection to share, none is made instead.
        words = ["-F", "none", "-T", "-o", "ControlMaster=no", "-o", f"ControlPath={quoted(self._file('socket'))}"]
        words += ["-o", "ProxyCommand=false", "-o", "LogLevel=ERROR", "--", "shared", command]
        completed = _run([self._access.ssh_executable, *words], limit, most, stdin)
        if completed.status == FAILED and self._is_lost():
            raise self._error()
        return completed

    def _file(self, name: str) -> str:
        folder = self._folder
        if folder is None:
            raise ConsoleError(f"{self._name}: the connection was ended")
        return f"{folder.name}/{name}"

    def _is_up(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    def _is_lost(self) -> bool:
        """Return whether the connection has ended: ssh may need a moment for it."""
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process is None or process.wait(END_LIMIT) is not None
        return False

    def _log_in(self) -> None:
        if self._is_up():
            return
        with self._lock:
            self.close()
            if self._is_ended:
                raise ConsoleError(f"{self._name}: the connection was ended")
            self._folder = tempfile.TemporaryDirectory(prefix="walbasin-")
            socket = self._file("socket")
            command = [self._access.ssh_executable, *options(self._access, *self._keys, socket)]
            command += ["--", self._access.host, "exec cat >/dev/null"]
            with open(self._file("stderr"), "wb") as messages:
                self._process = _start(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages)
        end = time.monotonic() + LOGIN_LIMIT
        while not os.path.exists(socket):
            if not self._is_up():
                raise self._error()
            if time.monotonic() > end:
                self.close()
                raise ConsoleError(f"{self._name}: it has not let us in within {LOGIN_LIMIT} seconds")
            time.sleep(STEP)

    def _error(self) -> ConsoleError:
        with self._lock, open(self._file("stderr"), "rb") as messages:
            return login_error(self._name, messages.read(CHUNK).decode("utf-8", "replace"))

    def end(self) -> None:
        """End the connection for good, also for a thread that uses it."""
        with self._lock:
            self._is_ended = True
            self.close()

    def close(self) -> None:
        """End the connection; the next command makes another."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.terminate()
            self._process.stdin.close()
            try:
                self._process.wait(CLOSE_LIMIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _start(command: list[str], **pipes: object) -> "subprocess.Popen[bytes]":
    """Start ssh. Ctrl-C does not reach it: we end it when we have done our part."""
    # It asks nobody: there may be no terminal, and a window would wait for ever.
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    try:
        return subprocess.Popen(command, start_new_session=True, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]
    except OSError as error:
        raise ConsoleError(f"cannot start {command[0]}: {error.strerror}") from error


def _run(command: list[str], limit: int, most: int, text: str) -> Completed:
    """Run ssh, and return how it has ended.

    Raises ConsoleError, TimeoutError, OverflowError (see Connection.run).
    """
    end = time.monotonic() + limit
    # A file, which takes all of it at once. Without a text it is empty.
    with tempfile.TemporaryFile() as stdin:
        stdin.write(text.encode())
        stdin.seek(0)
        with _start(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                stdout, stderr = _read(process, end, most)
                return Completed(process.wait(max(1.0, end - time.monotonic())), stdout, stderr)
            except subprocess.TimeoutExpired:
                raise TimeoutError from None
            finally:
                process.kill()


def _read(process: "subprocess.Popen[bytes]", end: float, most: int) -> tuple[str, str]:
    """Return what a process prints on stdout and stderr, until it closes both.

    end: of a monotonic clock. Raises TimeoutError, OverflowError.
    """
    assert process.stdout is not None and process.stderr is not None
    output = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in output:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > end:
                raise TimeoutError
            for key, _ in selector.select(max(0.0, end - time.monotonic())):
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fd)
                output[key.fd] += data
            if sum(map(len, output.values())) > most:
                raise OverflowError
    stdout, stderr = (text.decode("utf-8", "replace") for text in output.values())
    return stdout, stderr
