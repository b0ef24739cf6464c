"""Keep one standby from streaming for a while, and undo that in every case.

Before anything is done, a timer of systemd is started on the standby that undoes it, so
that nobody has to be there. A reboot undoes it too.
"""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .hosts import Cluster, Host
from .text import ConsoleError

UNIT = "walbasin-drill"
UNDO_ATTEMPTS = 3
# Seconds between two of them.
UNDO_PAUSE = 2
# What undoes it lies in a file: systemd has a meaning of its own for $ and %. Only root
# can write to the folder, and a reboot empties it. The file gets its name when the
# timer has one, which another drill's may have. The timer tries until it succeeds.
SCRIPT = "/run/walbasin-drill.sh"
START_TIMER = f"""
umask 077
new={SCRIPT}.$$
cat >"$new" && systemd-run --quiet --collect --unit={UNIT} --on-active="$1" --timer-property=AccuracySec=1s \\
    --property=Restart=on-failure --property=RestartSec=10s \\
    sh -c 'if [ -e {SCRIPT} ]; then sh {SCRIPT}; fi' && mv "$new" {SCRIPT}
status=$?
rm -f "$new"
exit "$status"
"""
REQUIRE_TIMER = f"""
systemctl is-active --quiet {UNIT}.timer || {{
    echo "the timer that undoes the outage is not active any more" >&2
    exit 1
}}
"""
STOP_TIMER = f"""
systemctl stop {UNIT}.timer {UNIT}.service 2>/dev/null
systemctl reset-failed {UNIT}.service 2>/dev/null
rm -f {SCRIPT}
exit 0
"""


class Interruption(NamedTuple):
    """Say how a standby is kept from streaming, in scripts for root's shell there.

    check: fails where that is not possible. make: reads `text`. undo: succeeds when
    nothing is left, also a second time. words: what each of the three is called with.
    """

    check: str
    make: str
    undo: str
    words: tuple[str, ...] = ()
    text: str = ""

    def require(self, host: Host) -> None:
        """Raise ConsoleError where it is not possible on this host."""
        host.run(*_call(self.check, self))


@contextmanager
def outage(cluster: Cluster, interruption: Interruption, limit: int, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep a standby from streaming while the block lasts.

    limit: seconds that it lasts at most, whatever happens here. Raises ConsoleError.
    """
    host = cluster.host
    interruption.require(host)
    # Stay outside of the `try`: when another drill's timer has the name already, this
    # drill has nothing to undo.
    undo = f"set -- {shlex.join(interruption.words)}\n(\n{interruption.undo}\n) && rm -f {SCRIPT}\n"
    host.run("sh", "-c", START_TIMER, "sh", str(limit), stdin=undo)
    is_made = False
    try:
        host.run(*_call(REQUIRE_TIMER + interruption.make, interruption), stdin=interruption.text)
        is_made = True
        yield
    finally:
        if not _is_undone(cluster, interruption, is_made, tell):
            tell(f"{cluster.name} undoes it by itself, {limit} seconds after it began at the latest")


def _call(script: str, interruption: Interruption) -> tuple[str, ...]:
    return ("sh", "-c", script, "sh", *interruption.words)


def _is_undone(cluster: Cluster, interruption: Interruption, is_made: bool, tell: Callable[[str], None]) -> bool:
    """Undo it, and return whether nothing is left of it.

    The timer is stopped last. It is left running where the call may still be on its way
    to the host. Errors are told, not raised: another may be on its way already.
    """
    for attempt in range(UNDO_ATTEMPTS):
        if attempt:
            time.sleep(UNDO_PAUSE)
        try:
            cluster.host.run(*_call(interruption.undo, interruption))
            if is_made:
                cluster.host.run("sh", "-c", STOP_TIMER)
            return True
        except ConsoleError as error:
            cluster.host.close()
            tell(f"cannot give streaming back, attempt {attempt + 1}: {error}")
    return False
