"""Compress files with a program, on one core of the Barman host at most."""

import os
from typing import Generator, Tuple

from walbasin.gate import child, client, connection_limit
from walbasin.wal.compression import is_installed

# In order of preference. One thread; no names or times in the output.
PROGRAMS = {"zstd": ["zstd", "-1", "-qc", "--single-thread"], "gzip": ["gzip", "-1", "-nc"]}
# The compressor gives way to everything else on the Barman host.
NICE = 10
# Bytes that are read at a time: what a pipe holds.
CHUNK = 64 * 1024


def choose_method(accepts: Tuple[str, ...]) -> str:
    """Return what both ends can do, or an empty string.

    accepts: the compressions that the fetcher can decompress.
    """
    return next((name for name in PROGRAMS if name in accepts and is_installed(name)), "")


def compress(descriptor: int, method: str, core: connection_limit.Core) -> Generator[bytes, None, None]:
    """Yield the compressed form of a file, from its position on.

    Raises child.ProgramFailed, OSError when the client is gone.
    """
    program = PROGRAMS[method]
    source, stdout = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with open(source, "rb", buffering=0) as pipe:
            try:
                process = child.start(program, descriptor, stdout, null)
            except OSError as error:
                raise child.ProgramFailed(f"cannot run {method}: {error.strerror}") from error
            finally:
                os.close(stdout)
            try:
                os.setpriority(os.PRIO_PROCESS, process, NICE)
                # While the client is written to, the program can only fill its pipe.
                while data := core.use(lambda: pipe.read(CHUNK)):
                    yield data
                child.wait(process, client.STDOUT, method)
            finally:
                status = child.end(process)
    finally:
        os.close(null)
    if status != 0:
        raise child.ProgramFailed(f"{method} ended with status {status}")
