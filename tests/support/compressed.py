"""Compress WAL in each form that the fetcher decompresses."""

import bz2
import functools
import gzip
import lzma
import subprocess
from collections.abc import Callable

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
FORMS = ("gzip", "bzip2", "xz", "zstd", "lz4")


@functools.lru_cache(maxsize=64)
def store(form: str, content: bytes) -> bytes:
    """Return a content as it is stored."""
    if form in COMPRESS:
        return COMPRESS[form](content)
    return subprocess.run([form, "-1", "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout
