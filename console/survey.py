"""Ask all standbys of a fleet side by side."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Optional

from .hosts import Cluster, Fleet, Host
from .snapshot import PEEK_INTERVAL, Snapshot, take_snapshot
from .ssh import HostKeyUnknown
from .status import DOWN, UNASKED, UNKNOWN, Row, row
from .text import ConsoleError, duration

# Standbys that are asked at once: each takes a thread here, and an ssh or two.
MOST_ASKED = 64
# Seconds after which a standby that could not be asked is asked again.
RETRY_INTERVAL = 10.0
# Requests to Barman a second, of all standbys: with many they ask more seldom.
PEEKS_A_SECOND = 10
# Standbys that begin to ask the same Barman host at once: an sshd turns away some of
# those who log in when there are more than 10 of them. Seconds that a login may take.
MOST_PEEKING, PEEK_STARTS_IN = 8, 1.0


class Throttle:
    """Let few at a time begin something that takes long.

    Who has begun some seconds ago counts no more, ended or not.
    """

    def __init__(self, most: int, seconds: float) -> None:
        """most: for each name. seconds: of a beginning."""
        self._most = most
        self._seconds = seconds
        self._begun: dict[str, dict[object, float]] = {}
        self._changed = threading.Condition()

    @contextmanager
    def acquire_slot(self, name: str) -> Iterator[None]:
        """Wait for a place among those who begin with the same thing, and hold it."""
        me = object()
        with self._changed:
            begun = self._begun.setdefault(name, {})
            while len(begun) >= self._most:
                oldest = min(begun, key=begun.__getitem__)
                left = begun[oldest] + self._seconds - time.monotonic()
                if left <= 0:
                    del begun[oldest]
                else:
                    self._changed.wait(left)
            begun[me] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                begun.pop(me, None)
                self._changed.notify()


class Survey:
    """Ask the standbys of a fleet side by side, and keep what each has answered last.

    Leaving the block waits for nobody; the end of the fleet ends what is under way.
    """

    def __init__(self, fleet: Fleet, wait_limit: Optional[float] = None) -> None:
        """wait_limit: seconds to wait for a standby in a round; None: for all."""
        self._fleet = fleet
        self._wait_limit = wait_limit
        self._pool = ThreadPoolExecutor(MOST_ASKED)
        self._peeks = Throttle(MOST_PEEKING, PEEK_STARTS_IN)
        self._peek_interval = max(PEEK_INTERVAL, len(fleet.standbys) / PEEKS_A_SECOND)
        self._snapshots: dict[str, Snapshot] = {}
        self._clusters: dict[str, list[Cluster]] = {}
        # Of each host: the rows that were found last, and when they said that it could
        # not be asked; and what is under way.
        self._rows: dict[str, list[Row]] = {}
        self._failed_at: dict[str, float] = {}
        self._asked: dict[str, Future[list[Row]]] = {}

    def __enter__(self) -> "Survey":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def rows(self) -> list[Row]:
        """Return a row for each standby, from its last snapshot and a new one.

        A standby that does not answer has a row too. It is asked again a while later,
        and with `wait_limit` nobody waits for it then.
        """
        began = time.monotonic()
        for host in self._fleet.standbys:
            is_due = began - self._failed_at.get(host.name, float("-inf")) >= RETRY_INTERVAL
            if is_due and host.name not in self._asked:
                self._asked[host.name] = self._pool.submit(self._ask, host)
        expected = [
            asked for name, asked in self._asked.items() if self._wait_limit is None or name not in self._failed_at
        ]
        wait(expected, self._wait_limit)
        return [row for host in self._fleet.standbys for row in self._rows_of(host, began)]

    def clusters(self) -> list[Cluster]:
        """Return the clusters of the hosts that have answered."""
        return [cluster for host in self._fleet.standbys for cluster in self._clusters.get(host.name, [])]

    def _rows_of(self, host: Host, began: float) -> list[Row]:
        """Return the rows of a host that was asked, at `began` or before."""
        asked = self._asked.get(host.name)
        if asked is not None and asked.done():
            del self._asked[host.name]
            self._rows[host.name] = asked.result()
            self._failed_at.pop(host.name, None)
            if all(row.role in UNASKED for row in self._rows[host.name]):
                self._failed_at[host.name] = time.monotonic()
        elif asked is not None and host.name not in self._failed_at:
            self._failed_at[host.name] = began
            known = self._rows.get(host.name) or [Row(host.name, "", DOWN)]
            late = f"it has not answered for {duration(time.monotonic() - began)}"
            self._rows[host.name] = [Row(row.standby, row.server, DOWN, problems=(late,)) for row in known]
        return self._rows[host.name]

    def _ask(self, host: Host) -> list[Row]:
        try:
            clusters = self._clusters[host.name] = self._fleet.clusters_on(host)
            return [self._row_of(cluster) for cluster in clusters]
        except ConsoleError as error:
            self._clusters.pop(host.name, None)
            return [_row_unasked(host.name, "", host, error)]

    def _row_of(self, cluster: Cluster) -> Row:
        try:
            before = self._snapshots.get(cluster.name)
            turn = self._peeks.acquire_slot(cluster.standby.barman_host)
            after = self._snapshots[cluster.name] = take_snapshot(cluster, before, turn, self._peek_interval)
            return row(cluster.name, cluster.standby, before or after, after)
        except ConsoleError as error:
            return _row_unasked(cluster.name, cluster.standby.barman_server, cluster.host, error)


def _row_unasked(name: str, barman_server: str, host: Host, error: ConsoleError) -> Row:
    role = UNKNOWN if isinstance(error, HostKeyUnknown) else DOWN
    return Row(name, barman_server, role, problems=(str(error).removeprefix(f"{host.name}: "),))
