"""Measure archives that are not simply read."""

import bz2
import contextlib
import gzip
import subprocess
from collections.abc import Callable, Iterator

from tests.support.barman_host import FILES
from tests.support.processes import PYTHON

from .. import rows
from ..contest import LIMIT, OURS, STOCK, Entrants
from ..field import STEADY, Field, Standby

# Bytes in each stream of rows.STREAM_FORMS: as bgzip and pbzip2 write them.
STREAMS = dict(zip(rows.STREAM_FORMS, (64 << 10, 900_000)))
# Prints the seconds of CPU that the fetcher takes to decompress a file, the least of
# twenty.
DECOMPRESS = """
import io, sys, time
sys.path.insert(0, sys.argv[1])
from walbasin.wal.compression import DecompressingWriter
with open(sys.argv[2], "rb") as file:
    stored = file.read()
seconds = []
for _ in range(20):
    began = time.process_time()
    writer = DecompressingWriter(io.BytesIO(), 1 << 30)
    writer.write(stored)
    writer.finish()
    seconds.append(time.process_time() - began)
print(min(seconds))
"""


@contextlib.contextmanager
def custom(field: Field, standby: Standby) -> Iterator[Entrants]:
    """Measure an archive that is compressed with a filter of its user's."""
    field.add_custom_archive(STEADY)

    def fetch(command: Callable[[], str]) -> Callable[[], dict[str, float]]:
        names = field.names[:STEADY]
        return lambda: {rows.CUSTOM: len(names) / sum(standby.trial(command(), names).seconds)}

    yield {OURS: fetch(lambda: standby.ours(kind="custom")), STOCK: fetch(lambda: standby.stock("custom"))}


@contextlib.contextmanager
def streams(field: Field, _: Standby) -> Iterator[Entrants]:
    """Measure decompression. The limit: of the same in one stream."""
    content = (field.local / field.names[0]).read_bytes()

    def decompress(form: str, size: int) -> float:
        store: Callable[[bytes], bytes] = gzip.compress if form == "gzip" else bz2.compress
        file = field.folder / f"streams.{form}"
        file.write_bytes(b"".join(store(content[start : start + size]) for start in range(0, len(content), size)))
        command = [PYTHON, "-c", DECOMPRESS, str(FILES), str(file)]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        return len(content) / 1e6 / float(ran.stdout)

    yield {
        OURS: lambda: {rows.STREAMS.format(form): decompress(form, size) for form, size in STREAMS.items()},
        LIMIT: lambda: {rows.STREAMS.format(form): decompress(form, len(content)) for form in STREAMS},
    }
