"""Name the contests, in the order in which they take place."""

from .. import rows
from ..contest import Contest
from . import archives, fetching, links, servers

CONTESTS: dict[str, Contest] = {
    "plain": fetching.throughput("plain"),
    "gzip": fetching.throughput("gzip"),
    "zstd": fetching.throughput("zstd"),
    "wait": fetching.waiting,
    "hit": fetching.hits,
    "cold": fetching.cold_start,
    "crowd": fetching.crowd,
    "miss": fetching.misses,
    "hosts": fetching.two_hosts,
    "recovery": servers.recovery,
    "streaming": servers.streaming,
    "restore": servers.restore,
    "promotion": servers.promotion,
    "wide": links.wide,
    "narrow": links.narrow,
    **{name: links.by_compression(link) for name, link in zip(("100M", "20M", "1G", "loopback"), rows.LINKS)},
    "limit": links.rate_limited,
    "custom": archives.custom,
    "streams": archives.streams,
    "many": fetching.many,
    "memory": fetching.memory,
}
