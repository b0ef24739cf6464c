"""Hold one call of barman-wal-restore: what it was asked, and for which cluster."""

from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from walbasin import policy
from walbasin.fetcher.options import NO_COMPRESSION, Options
from walbasin.local import data_directory, promotion
from walbasin.local.data_directory import DataDirectory
from walbasin.local.promotion import Promotion
from walbasin.local.spool import Spool
from walbasin.wal import segment

if TYPE_CHECKING:
    from walbasin.local.host_memory import HostMemory
    from walbasin.remote.archive import Archive


class Call(NamedTuple):
    """Hold the options, the cluster, how it is recovered (policy), and its spool.

    cluster: None when called by hand elsewhere. spool: None where it cannot be used.
    """

    options: Options
    cluster: Optional[DataDirectory]
    mode: str
    spool: Optional[Spool]

    @property
    def wants_partial(self) -> bool:
        """Return whether a .partial will do, where there is no whole segment (-P)."""
        return self.options.partial and segment.is_segment_name(self.options.wal_name)

    def archives(self) -> "Tuple[Archive, ...]":
        """Return the archives that the call is about, that of the preferred host first.

        There is one for each Barman host.
        """
        # Import late: a spool hit does not need it.
        from walbasin.remote.archive import Archive
        from walbasin.remote.ssh import Remote
        from walbasin.wal.getwal import COMPRESSIONS, Request

        options = self.options
        request = Request(
            options.server_name,
            options.wal_name,
            config=options.config,
            compression=options.compression if options.compression in COMPRESSIONS else "",
            keep_compression=options.keep_compression,
        )
        gate_compression = "" if options.compression == NO_COMPRESSION else options.compression
        remotes = [Remote(host, options.user, options.port, options.ssh_config) for host in options.barman_hosts]
        archive = Archive(
            remote=remotes[0],
            request=request,
            cluster=self.cluster,
            promotion=self.promotion(),
            gate_compression=gate_compression,
            rate_limit=options.rate_limit,
        )
        return tuple(archive._replace(remote=remote) for remote in remotes)

    def host_memory(self) -> "HostMemory":
        """Return what is known of the Barman hosts."""
        from walbasin.local.host_memory import HostMemory

        return HostMemory(self.spool)

    def promotion(self) -> Promotion:
        """Return what says that nobody may be held up."""
        if self.cluster is None or self.mode != policy.STANDBY or self.options.test:
            return Promotion()
        if self.is_at_end_of_recovery():
            return Promotion((self.cluster.path,))  # which is there: it has begun
        return promotion.watch(self.cluster)

    def is_at_end_of_recovery(self) -> bool:
        """Return whether this is the last call of a recovery.

        PostgreSQL has removed its signal file, and asks for the history of the timeline
        that it leaves. It takes no writes before it has an answer.
        """
        cluster = self.cluster
        return (
            cluster is not None
            and segment.is_history_name(self.options.wal_name)
            and cluster.postmaster_id is not None
            and not data_directory.is_still_recovering(cluster)
        )
