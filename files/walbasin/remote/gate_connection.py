"""Speak the gate's protocol over one ssh connection: requests out, answers in.

No request waits for the round trip of the one before.
"""

import contextlib
import math
import os
import subprocess
import time
from collections import deque
from typing import Callable, Deque, Iterable, List, Optional, Protocol

from walbasin.local.debug import debug
from walbasin.remote import ssh
from walbasin.remote.errors import OUTAGES, ConnectionLost, NotInArchive, RemoteError
from walbasin.remote.ssh import Remote
from walbasin.wal import protocol
from walbasin.wal.incoming_file import IncomingFile
from walbasin.wal.segment import InvalidWal

# Bytes that are read at a time.
CHUNK = 256 * 1024
# Seconds that one connection may take before others, and clients, have their turn: the
# pipe of a fast network is never empty before a slow disk.
LONGEST_TURN = 0.25
# Seconds for the first byte of an answer. A gate at work on it gives a sign before.
LOOKUP_LIMIT = 5
# Bytes that a shell on the other side may print before the gate does.
LONGEST_BANNER = 64 * 1024


class FetchHandler(Protocol):
    """Take what comes of file `name`."""

    name: str

    @property
    def incoming(self) -> IncomingFile:
        """Return where it goes. Raises FetchError when nobody wants it any more."""

    def on_found(self) -> None:
        """Note that the archive has the file, and that Barman is at work on it."""

    def on_first_byte(self) -> None:
        """Note that the file has begun to arrive."""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises InvalidWal, OSError."""

    def on_complete(self, error: Optional[Exception]) -> None:
        """Note that all has arrived (error is None), or what went wrong."""


class NoGate(Exception):
    """Report that no gate speaks our protocol there; the text is the host's output."""


class GateConnection(ssh.Connection):
    """Carry requests and answers over one ssh connection to the gate.

    on_lost is called once with why it has ended, before its requests end.
    """

    def __init__(
        self, remote: Remote, opening: protocol.Opening, on_lost: "Callable[[GateConnection, Exception], None]"
    ) -> None:
        """Start ssh. Raises FetchError when that fails."""
        super().__init__(remote, protocol.opening_line(opening), stdin=subprocess.PIPE)
        self.is_open = False
        # Seconds from the first request to the first byte of its answer.
        self.round_trip = math.inf
        # Of the answer that is awaited: since when, and how many bytes of it are here.
        self.awaits_since = 0.0
        self.arrived = 0
        # Of the last answer that brought a file: when it ended, and its bytes a second.
        self.answered_at = 0.0
        self.rate = 0.0
        # Barman itself, or a slow filter of its user's, had to undo the last file.
        self.needs_barman = False
        self._first_request_at = 0.0
        self._on_lost = on_lost
        self._pending: Deque[FetchHandler] = deque()
        self._buffer = b""
        # Of the frame that is being read: its kind, and the bytes still to come.
        self._kind = b""
        self._left = 0
        self._has_first_byte = False
        # The gate has said that Barman is at work on it.
        self._is_worked_on = False
        self._error: Optional[Exception] = None
        os.set_blocking(self.stdout, False)

    def __len__(self) -> int:
        """Return how many requests wait for their answers."""
        return len(self._pending)

    def request(self, handler: FetchHandler) -> None:
        """Ask for a file."""
        self._pending.append(handler)
        if len(self._pending) == 1:
            self.touch()
            self._await_next()
        if self.is_open:
            self._send([handler])

    def _await_next(self) -> None:
        self.awaits_since, self.arrived = time.monotonic(), 0

    def _send(self, handlers: Iterable[FetchHandler]) -> None:
        self._first_request_at = self._first_request_at or time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end will be noticed on the other pipes, with its cause
            os.write(self.process.stdin.fileno(), b"".join(protocol.request_line(each.name) for each in handlers))

    def silence_limit(self) -> int:
        return super().silence_limit() if self._has_first_byte or not self.is_open else LOOKUP_LIMIT

    def names(self) -> List[str]:
        return [handler.name for handler in self._pending]

    def resume(self, seconds: float) -> None:
        super().resume(seconds)
        self.awaits_since += seconds

    def touch(self) -> None:
        if self.is_open:
            super().touch()
        if self.is_open and not self._pending:
            self.deadline = math.inf  # the gate has nothing to say; ssh's own keepalive notices a dead host

    def receive_stdout(self) -> bool:
        """Read what is there. Return False at the end.

        Raises FetchError when what comes is not our protocol.
        """
        self.last_sign = time.monotonic()
        end = self.last_sign + LONGEST_TURN
        try:
            while self._read_step():
                if time.monotonic() > end and not self._buffer:
                    return True
        except BlockingIOError:
            return True
        return False

    def _read_step(self) -> bool:
        """Read the next piece. Return False at the end of the connection.

        Raises BlockingIOError, FetchError.
        """
        if not self.is_open:
            return self._read_greeting()
        if not self._left:
            return self._read_header()
        return self._read_content() if self._kind == protocol.DATA else self._read_error()

    def _read_greeting(self) -> bool:
        data = os.read(self.stdout, CHUNK)
        self._buffer += data
        _banner, greeting, rest = self._buffer.partition(protocol.GREETING + b"\n")
        if greeting:
            self._buffer = rest
            self.is_open = self.has_answered = True
            debug(f"the gate on {self.remote.host} answers ssh {self.process.pid}")
            self.touch()
            self._await_next()
            if self._pending:
                self._send(self._pending)
        elif len(self._buffer) > LONGEST_BANNER:
            raise RemoteError(f"{self.remote.host} said too much before its gate did")
        return bool(data)

    def _read(self, most: int) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer[:most], self._buffer[most:]
            return data
        return os.read(self.stdout, most)

    def _fill(self, length: int) -> bool:
        """Have `length` bytes in the buffer. Return False at the end of the connection.

        Read no more than that, so that what follows can be spliced.
        """
        while len(self._buffer) < length:
            data = os.read(self.stdout, length - len(self._buffer))
            if not data:
                return False
            self._buffer += data
        return True

    def _read_header(self) -> bool:
        if not self._fill(protocol.HEADER.size):
            return False
        if self.round_trip == math.inf:
            self.round_trip = time.monotonic() - self._first_request_at
        self._kind, self._left = protocol.HEADER.unpack_from(self._buffer)
        self._buffer = self._buffer[protocol.HEADER.size :]
        # Of DATA as much as there may be of the file: see _begin_content.
        most = {protocol.DATA: self._left, protocol.ERROR: protocol.LONGEST_ERROR}.get(self._kind, 0)
        if self._kind not in protocol.FRAMES or self._left > most or not self._pending:
            raise RemoteError(f"the gate on {self.remote.host} answered what was not asked")
        if self._kind == protocol.DATA and self._left:
            self._begin_content()
        elif self._kind == protocol.DATA and not self._has_first_byte:
            self._note_work()
        elif self._kind == protocol.FOUND and not self._has_first_byte and not self._is_worked_on:
            self._note_work()
            self._pending[0].on_found()
        if self._kind == protocol.REST:
            self._begin_rest()
        elif self._kind == protocol.END:
            self._complete(self._error)
        elif self._kind == protocol.ABSENT:
            self._complete(NotInArchive())
        elif self._kind == protocol.ERROR and not self._left:
            self._complete(RemoteError(f"the gate on {self.remote.host} failed"))
        return True

    def _begin_content(self) -> None:
        """Note that a piece of the file begins. Raises InvalidWal for one too long."""
        handler = self._pending[0]
        try:
            handler.incoming.check_arrival(self.arrived + self._left)
        except InvalidWal as error:
            # End the connection: what comes could be endless.
            self._error = self._error or error
            raise
        if not self._has_first_byte:
            self._has_first_byte = True
            self.touch()
            handler.on_first_byte()

    def _begin_rest(self) -> None:
        """Note that the rest of the file comes compressed. Raises FetchError."""
        if self._error is not None:
            return
        try:
            self._pending[0].incoming.expect_compressed_rest()
        except InvalidWal as error:
            self._error = error

    def _note_work(self) -> None:
        """Wait on: the gate says that Barman is at work on the file."""
        self._is_worked_on = self.needs_barman = True
        if time.monotonic() - self.awaits_since < ssh.COMPUTE_LIMIT:
            self.touch()

    def has_begun(self) -> bool:
        return super().has_begun() and not self._is_worked_on

    def _read_content(self) -> bool:
        """Read some bytes of the file that is arriving.

        Read it to its end even when it cannot be used: the next answer is behind it.
        """
        incoming = self._pending[0].incoming
        most = self._left if self._buffer else self.may_read(self._left)
        if most == 0:
            raise BlockingIOError
        try:
            moved = None if self._buffer or self._error else incoming.splice(self.stdout, most)
            if moved is None:
                data = self._read(min(most, CHUNK))
                moved = len(data)
                self._count(moved)
                if data and self._error is None:
                    incoming.write(data)
                return bool(data)
            self._count(moved)
            return moved > 0
        except BlockingIOError:
            raise
        except (InvalidWal, OSError) as error:
            self._error = error
            return True

    def _count(self, moved: int) -> None:
        self._left -= moved
        self.arrived += moved
        self.count(moved)

    def _read_error(self) -> bool:
        if not self._fill(self._left):
            return False
        text, self._buffer, self._left = self._buffer[: self._left], self._buffer[self._left :], 0
        cause = ssh.printable(text.decode("utf-8", "replace"))
        self._complete(RemoteError(f"the gate on {self.remote.host} cannot serve it: {cause}"))
        return True

    def _complete(self, error: Optional[Exception]) -> None:
        """Hand the awaited answer over, and await the next one."""
        if self.arrived:
            self.needs_barman = self._is_worked_on
            self.answered_at = time.monotonic()
            self.rate = self.arrived / max(self.answered_at - self.awaits_since, 0.001)
        self._has_first_byte, self._is_worked_on, self._error = False, False, None
        self._await_next()
        self._pending.popleft().on_complete(error)
        self.touch()

    def result_of(self, status: int) -> Exception:
        if not self.is_open and status != ssh.SSH_FAILED and status >= 0:
            output = self.stderr.strip().splitlines()[-1:] or [f"status {status}"]
            return NoGate(f"no gate answers on {self.remote.host} ({ssh.printable(output[0])})")
        if status == 0:
            return RemoteError(f"the gate on {self.remote.host} ended the connection")
        return super().result_of(status) or RemoteError("")

    def end(self, error: Optional[Exception]) -> None:
        cause = error or RemoteError(f"the gate on {self.remote.host} ended the connection")
        self._on_lost(self, cause)
        # Do not ask again for what has waited until the time limit: the next connection
        # could be silent as well.
        result = cause if isinstance(cause, OUTAGES) else ConnectionLost(str(cause))
        # Another connection would bring what was refused once more.
        refused, self._error = self._error, None
        for handler in self._pending:
            handler.on_complete(refused or result)
            refused = None
