"""One call of barman-wal-restore: what it was asked, and for which cluster."""

from typing import NamedTuple, Optional

from walbasin.fetcher.options import Options
from walbasin.local.data_directory import Cluster
from walbasin.local.spool import Spool


class Job(NamedTuple):
    """The options, the cluster (None when called by hand elsewhere), how it is recovered (policy), and its spool."""

    options: Options
    cluster: Optional[Cluster]
    mode: str
    spool: Optional[Spool]
