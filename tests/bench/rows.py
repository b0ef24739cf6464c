"""Name what is measured: the rows of the report."""

from .field import JOBS

# Standbys that are served at once.
STANDBYS = 8
# Servers of a Barman host that has many.
SERVERS = 1000

RATE = "segments a second, {} archive"
PLAIN, GZIP, ZSTD = RATE.format("plain"), RATE.format("gzip"), RATE.format("zstd")
STANDBY_CPU = "CPU a segment on the standby, {}, ms"
BARMAN_CPU = "CPU a segment on the Barman host, {}, ms"
HOST_CPU = BARMAN_CPU.format("plain")
WAIT = "wait a segment at 100 ms replay, ms"
HIT = "a spool hit, ms"
COLD = "first segment after a cold start, ms"
COLD_CROWD = f"the same, {SERVERS} servers in Barman, ms"
HANDSHAKE = "an ssh handshake, ms"
MISS = "a miss, connection open, ms"
MISS_OF_TWO = "a miss at two hosts, ms"
ONE_DEAD = "segments a second, the first of two hosts dead"
RECOVERY = "a real standby's recovery, s"
STREAMING = "from a rebuild's copy until it streams, s"
COPY = "MB a second, Barman's restore into a standby"
PROMOTION = "promotion, connection open, s"
PROMOTION_COLD = "promotion, cold, s"
PROMOTION_DARK = "promotion, Barman black-holed, s"
PROMOTION_REFUSED = "promotion, Barman refuses, s"
PROMOTION_FROZEN = "promotion, Barman frozen with a connection open, s"
PROMOTION_CUT = "promotion, Barman frozen in mid-segment, s"
WIDE = "segments a second at 50 ms round trip"
NARROW = "segments a second at 100 Mbit/s, gzip archive"
NARROW_Z = "segments a second at 100 Mbit/s, -z"
# A plain archive behind a link, with each way to compress.
LINKS = ("100 Mbit/s and 20 ms", "20 Mbit/s and 20 ms", "1 Gbit/s", "loopback")
LINK = "segments a second, {}, {}"
NO_OPTION, NO_COMPRESSION, BY_GZIP, BY_ZSTD = "no option", "--compress none", "-z", "--compress zstd"
LIMITED = "MB a second with --rate-limit 10M"
LIMITED_WAIT = "the longest wait there, of the time of a segment"
# Forms of compression with several streams in a file.
STREAM_FORMS = ("gzip", "bzip2")
STREAMS = "MB a second of CPU, out of several {} streams"
CUSTOM = "segments a second, archive with a filter of its own"
MANY = f"segments a second, {STANDBYS} standbys"
FAIR = "the slowest of them, of the fastest"
MEMORY = "memory, -p {}, MiB"
MEMORY_FEW = MEMORY.format(JOBS)
