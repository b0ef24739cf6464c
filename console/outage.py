"""Keep one standby from streaming for a while, and undo that in every case.

Before anything is done, a timer of systemd is started on the standby that undoes it, so
that nobody has to be there. A reboot undoes it too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .hosts import Cluster
from .text import ConsoleError

UNIT = "walbasin-drill"
UNDO_ATTEMPTS = 3
# What is undone by the timer is tried again until it succeeds.
TIMER = (
    *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--timer-property=AccuracySec=1s"),
    *("--property=Restart=on-failure", "--property=RestartSec=10s"),
)
REQUIRE_TIMER = f"""
systemctl is-active --quiet {UNIT}.timer || {{
    echo "the timer that undoes the outage is not active any more" >&2
    exit 1
}}
"""
STOP_TIMER = f"""
systemctl stop {UNIT}.timer {UNIT}.service 2>/dev/null
systemctl reset-failed {UNIT}.service 2>/dev/null
exit 0
"""


class Cut(NamedTuple):
    """Say how a standby is kept from streaming, in scripts for root's shell there.

    check: fails where that is not possible. make: reads `text`. undo: succeeds when
    nothing is left, also a second time. words: what each of the three is called with.
    """

    check: str
    make: str
    undo: str
    words: tuple[str, ...] = ()
    text: str = ""


@contextmanager
def outage(cluster: Cluster, cut: Cut, limit: int, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep a standby from streaming while the block lasts.

    limit: seconds that it lasts at most, whatever happens here. Raises ConsoleError.
    """
    host = cluster.host
    host.run(*_call(cut.check, cut))
    # Stay outside of the `try`: when another drill's timer has the name already, this
    # drill has nothing to undo.
    host.run(*TIMER, f"--on-active={limit}", *map(_escaped, _call(cut.undo, cut)))
    is_made = False
    try:
        host.run(*_call(REQUIRE_TIMER + cut.make, cut), stdin=cut.text)
        is_made = True
        yield
    finally:
        if not _is_undone(cluster, cut, is_made, tell):
            tell(f"{cluster.name} undoes it by itself, {limit} seconds after the cut at the latest")


def _call(script: str, cut: Cut) -> tuple[str, ...]:
    return ("sh", "-c", script, "sh", *cut.words)


def _escaped(word: str) -> str:
    """Return a word that systemd hands on as it is: it expands variables itself."""
    return word.replace("$", "$$")


def _is_undone(cluster: Cluster, cut: Cut, is_made: bool, tell: Callable[[str], None]) -> bool:
    """Undo it, and return whether nothing is left of it.

    The timer is stopped last. It is left running where the cut may still be on its way
    to the host. Errors are told, not raised: another may be on its way already.
    """
    for attempt in range(UNDO_ATTEMPTS):
        try:
            cluster.host.run(*_call(cut.undo, cut))
            if is_made:
                cluster.host.run("sh", "-c", STOP_TIMER)
            return True
        except ConsoleError as error:
            cluster.host.close()
            tell(f"cannot give streaming back, attempt {attempt + 1}: {error}")
    return False
