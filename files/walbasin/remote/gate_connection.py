"""The fetcher's side of a connection to the gate: requests out, answers in, and never a wait for a round trip."""

import contextlib
import fcntl
import math
import os
import subprocess
import time
from collections import deque
from typing import Callable, Deque, Iterable, Optional, Protocol

from walbasin.remote import ssh
from walbasin.remote.ssh import Absent, Lost, Remote, Silent, Unreachable
from walbasin.wal import compression, protocol
from walbasin.wal.compression import Arrival
from walbasin.wal.segment import Invalid

CHUNK = 256 * 1024
PIPE_SIZE = 1024 * 1024
F_SETPIPE_SZ = 1031
# Seconds that one connection may take before others, and callers, have their turn: the pipe of a fast network is never
# empty before a slow disk.
LONGEST_TURN = 0.25
# What a shell on the other side may print before the gate does.
LONGEST_BANNER = 64 * 1024


class Receiver(Protocol):
    """Who asked for file `name`. `begin` is called with its first bytes, `end` with None when all have arrived."""

    name: str
    arrival: Arrival

    def begin(self) -> None: ...

    def end(self, error: Optional[Exception]) -> None: ...


class NoGate(Exception):
    """The Barman host was reached, and has no gate that speaks our protocol; the text is what it said."""


class Gateway(ssh.Connection):
    """One ssh connection to the gate. `on_lost` is called once with why it has ended, before its requests end."""

    def __init__(
        self, remote: Remote, opening: protocol.Opening, on_lost: "Callable[[Gateway, Exception], None]"
    ) -> None:
        """Raises Unreachable when ssh cannot be started."""
        super().__init__(remote, protocol.opening_line(opening), stdin=subprocess.PIPE)
        self.is_open = False
        # Seconds from the first request to the first word of its answer.
        self.round_trip = math.inf
        # Of the answer that is awaited: since when, and how many bytes of it have come. When the last one ended that
        # brought a file, and how many bytes a second it had.
        self.awaits_since = 0.0
        self.arrived = 0
        self.answered_at = 0.0
        self.rate = 0.0
        self._asked_at = 0.0
        self._on_lost = on_lost
        self._pending: Deque[Receiver] = deque()
        self._buffer = b""
        self._kind = b""
        self._left = 0
        self._has_begun = False
        self._trouble: Optional[Exception] = None
        os.set_blocking(self.stdout, False)
        with contextlib.suppress(OSError):  # beyond a limit of the user's; the default does as well
            fcntl.fcntl(self.stdout, F_SETPIPE_SZ, PIPE_SIZE)

    def __len__(self) -> int:
        """How many requests wait for their answers."""
        return len(self._pending)

    def request(self, receiver: Receiver) -> None:
        """Ask for a file."""
        self._pending.append(receiver)
        if len(self._pending) == 1:
            self.heard()
            self._await_next()
        if self.is_open:
            self._send([receiver])

    def _await_next(self) -> None:
        self.awaits_since, self.arrived = time.monotonic(), 0

    def _send(self, receivers: Iterable[Receiver]) -> None:
        self._asked_at = self._asked_at or time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end will be noticed on the other pipes, with its cause
            os.write(self.process.stdin.fileno(), b"".join(protocol.request_line(each.name) for each in receivers))

    def heard(self) -> None:
        if self.is_open:
            super().heard()
        if self.is_open and not self._pending:
            self.deadline = math.inf  # nothing is to be said; ssh's own keepalive notices a dead one

    def receive_stdout(self) -> bool:
        """Raises Unreachable when what comes is not our protocol."""
        self.heard()
        end = time.monotonic() + LONGEST_TURN
        try:
            while self._step():
                if time.monotonic() > end and not self._buffer:
                    return True
        except BlockingIOError:
            return True
        return False

    def _step(self) -> bool:
        """Read the next thing. False at the end of the connection. Raises BlockingIOError, Unreachable."""
        if not self.is_open:
            return self._greet()
        if not self._left:
            return self._next_frame()
        return self._take() if self._kind == protocol.DATA else self._take_text()

    def _greet(self) -> bool:
        data = os.read(self.stdout, CHUNK)
        self._buffer += data
        _banner, greeting, rest = self._buffer.partition(protocol.GREETING + b"\n")
        if greeting:
            self._buffer = rest
            self.is_open = self.has_answered = True
            self._await_next()
            if self._pending:
                self._send(self._pending)
        elif len(self._buffer) > LONGEST_BANNER:
            raise Unreachable(f"{self.remote.host} said too much before its gate did")
        return bool(data)

    def _read(self, most: int) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer[:most], self._buffer[most:]
            return data
        return os.read(self.stdout, most)

    def _fill(self, length: int) -> bool:
        """Have that much in the buffer, and no more, so that what follows can be spliced. False at the end."""
        while len(self._buffer) < length:
            data = os.read(self.stdout, length - len(self._buffer))
            if not data:
                return False
            self._buffer += data
        return True

    def _next_frame(self) -> bool:
        if not self._fill(protocol.HEADER.size):
            return False
        if self.round_trip == math.inf:
            self.round_trip = time.monotonic() - self._asked_at
        self._kind, self._left = protocol.HEADER.unpack_from(self._buffer)
        self._buffer = self._buffer[protocol.HEADER.size :]
        limit = (
            protocol.LONGEST_ERROR
            if self._kind == protocol.ERROR
            else compression.LONGEST
            if self._kind == protocol.DATA
            else 0
        )
        if self._kind not in protocol.FRAMES or self._left > limit or not self._pending:
            raise Unreachable(f"the gate on {self.remote.host} answered what was not asked")
        if self._kind == protocol.END:
            self._answer(self._trouble)
        elif self._kind == protocol.ABSENT:
            self._answer(Absent())
        elif self._kind == protocol.DATA and not self._has_begun:
            self._has_begun = True
            self._pending[0].begin()
        elif self._kind == protocol.ERROR and not self._left:
            self._answer(Unreachable(f"the gate on {self.remote.host} failed"))
        return True

    def _take(self) -> bool:
        """Some bytes of the file that is arriving. What cannot be used is read to its end all the same."""
        arrival = self._pending[0].arrival
        try:
            moved = None if self._buffer or self._trouble else arrival.splice(self.stdout, self._left)
            if moved is None:
                data = self._read(min(self._left, CHUNK))
                moved = len(data)
                self._moved(moved)
                if data and self._trouble is None:
                    arrival.write(data)
                return bool(data)
            self._moved(moved)
            return moved > 0
        except BlockingIOError:
            raise
        except (Invalid, OSError) as trouble:
            self._trouble = trouble
            return True

    def _moved(self, count: int) -> None:
        self._left -= count
        self.arrived += count

    def _take_text(self) -> bool:
        if not self._fill(self._left):
            return False
        text, self._buffer, self._left = self._buffer[: self._left], self._buffer[self._left :], 0
        said = ssh.printable(text.decode("utf-8", "replace"))
        self._answer(Unreachable(f"the gate on {self.remote.host} cannot serve it: {said}"))
        return True

    def _answer(self, error: Optional[Exception]) -> None:
        self._has_begun, self._trouble = False, None
        if self.arrived:
            self.answered_at = time.monotonic()
            self.rate = self.arrived / max(self.answered_at - self.awaits_since, 0.001)
        self._await_next()
        self._pending.popleft().end(error)
        self.heard()

    def verdict(self, status: int) -> Exception:
        if not self.is_open and status != ssh.SSH_FAILED and status >= 0:
            said = self.stderr.strip().splitlines()[-1:] or [f"status {status}"]
            return NoGate(f"no gate answers on {self.remote.host} ({ssh.printable(said[0])})")
        if status == 0:
            return Unreachable(f"the gate on {self.remote.host} ended the connection")
        return super().verdict(status) or Unreachable("")

    def end(self, error: Optional[Exception]) -> None:
        cause = error or Unreachable(f"the gate on {self.remote.host} ended the connection")
        self._on_lost(self, cause)
        # Who has waited for so long is told, and does not wait for another connection to fall silent.
        is_final = isinstance(cause, Silent)
        for receiver in self._pending:
            receiver.end(cause if is_final else Lost(str(cause), getattr(cause, "is_connection", False)))
