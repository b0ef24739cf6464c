"""Run `barman get-wal` for as long as its client is there, and leave nothing behind."""

import os
import select
import time
from typing import Callable

from walbasin.gate import child
from walbasin.wal import getwal

# Seconds without a byte from Barman. A fetcher waits as long for what Barman has to
# decompress or decrypt first.
SILENCE_LIMIT = 600
# Seconds between two signs to the client that Barman is still at work.
SIGN_INTERVAL = 0.5
# Bytes that are read at a time.
CHUNK = 256 * 1024


class BarmanError(Exception):
    """Report that Barman did not do its work; the text says why."""


def run(request: getwal.Request, on_data: Callable[[bytes], None], client: int, stderr: int) -> int:
    """Run Barman, and return its exit status: 128 and more is a signal, as in a shell.

    on_data: gets each piece of its stdout, and an empty one every SIGN_INTERVAL seconds
    while there is none.
    client: descriptor of the client, whose end is the end of Barman.
    stderr: descriptor that gets Barman's stderr.
    Raises BarmanError, OSError when the client is gone.
    """
    source, stdout = os.pipe()
    try:
        process = _start(request, stdout, stderr)
        os.close(stdout)
        try:
            _relay(source, on_data, client)
            child.wait(process)
        finally:
            status = child.end(process)
    finally:
        os.close(source)
    return status


def _start(request: getwal.Request, stdout: int, stderr: int) -> int:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return child.start(["barman", *getwal.arguments(request)], null, stdout, stderr)
    except OSError as error:
        os.close(stdout)
        raise BarmanError(f"cannot run barman: {error.strerror} (looked in {os.environ.get('PATH', '')})") from error
    finally:
        os.close(null)


def _relay(source: int, on_data: Callable[[bytes], None], client: int) -> None:
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(client, 0)  # its end is told all the same
    end = time.monotonic() + SILENCE_LIMIT
    while time.monotonic() < end:
        events = dict(poll.poll(round(SIGN_INTERVAL * 1000)))
        if client in events:
            raise BrokenPipeError
        data = os.read(source, CHUNK) if events else b""
        if events and not data:
            return
        on_data(data)
        if data:
            end = time.monotonic() + SILENCE_LIMIT
    raise BarmanError(f"barman get-wal has sent nothing for {SILENCE_LIMIT} seconds")
