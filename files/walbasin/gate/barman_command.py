"""Have Barman send a file: by `barman get-wal`."""

import os
from typing import Callable

from walbasin.gate import child
from walbasin.wal import getwal


def run(request: getwal.Request, on_data: Callable[[bytes], None], client: int, stderr: int) -> int:
    """Run Barman, and return its exit status: see child.relay.

    stderr: descriptor that gets Barman's stderr.
    """
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        words = ["barman", *getwal.arguments(request)]
        return child.relay(words, on_data, stdin=null, stderr=stderr, client=client)
    finally:
        os.close(null)
