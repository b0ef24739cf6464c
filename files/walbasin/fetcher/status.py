"""Say what was done for a standby, what is ready, and how its last test ended.

That is barman-wal-restore --status.
"""

import json
import time
from typing import Dict, List, NamedTuple, Sequence, Tuple

from walbasin.fetcher import gap, options, timeline_guard
from walbasin.fetcher.call import Call
from walbasin.fetcher.gap import Gap
from walbasin.fetcher.log import log
from walbasin.fetcher.timeline_guard import Abandoned
from walbasin.local import data_directory
from walbasin.prefetch import counters
from walbasin.prefetch.counters import Counters

# The name of the file in the spool that keeps the last test.
TEST = "test.json"
# There are none to tell apart where there is a single host.
NO_HOSTS: Dict[str, str] = {}


class LastTest(NamedTuple):
    """Hold how barman-wal-restore -t ended.

    time: seconds since 1970, 0 when it never ran. seconds: how long it took. gate: its
    version; empty when none has answered. unasked: why the server could not be asked
    which restore_command it uses. is_lasting: the error is one that a segment that is
    restored later does not disprove. hosts: each of several Barman hosts, and why it
    did not work, or an empty string.
    """

    time: float = 0.0
    seconds: float = 0.0
    error: str = ""
    gate: str = ""
    unasked: str = ""
    is_lasting: bool = False
    hosts: Dict[str, str] = NO_HOSTS


class Status(NamedTuple):
    """Hold the status of one cluster and one server of Barman's.

    spool: the segments that are ready. free_segments: how many more fit. gap: what the
    standby lacks and the archive does not have, and abandoned: a timeline there that it
    cannot follow, as far as somebody has looked. hosts: each of several Barman hosts,
    and why it does not work, or an empty string.
    """

    barman_host: str
    server: str
    is_recovering: bool
    is_running: bool
    spool: List[str]
    free_segments: int
    counters: Counters
    test: LastTest
    gap: Gap
    abandoned: Abandoned
    hosts: Dict[str, str] = NO_HOSTS


def save_test(call: Call, test: LastTest) -> None:
    """Keep how a test has ended."""
    if call.spool is not None:
        call.spool.save_text(TEST, json.dumps(test._asdict()))


def parse_test(text: str) -> LastTest:
    """Return what save_test kept; a test that never ran, when that cannot be read."""
    return counters.parse_tuple(text, LastTest())


def is_disproved(test: LastTest, done: Counters) -> bool:
    """Return whether the test has failed, but a segment was restored after its end.

    Then the way to Barman works again, although nobody has repeated the test.
    """
    return bool(test.error) and not test.is_lasting and done.last_restored > test.time + test.seconds


def run(call: Call) -> int:
    """Print the status, in the form that was asked for.

    Returns 0, or 2 after a line on stderr when there is nothing to look at.
    """
    cluster, spool = call.cluster, call.spool
    if cluster is None:
        log("no status: run it in the data directory of the standby, as the user that runs PostgreSQL")
        return 2
    if spool is None:  # the reason was said
        return 2
    test = parse_test(spool.load_text(TEST))
    status = Status(
        barman_host=call.options.barman_host,
        server=call.options.server_name,
        is_recovering=data_directory.is_still_recovering(cluster),
        is_running=spool.has_prefetch_process(),
        spool=spool.names(),
        free_segments=spool.free_segments(cluster.segment_size),
        counters=Counters(spool.load_text(counters.FILE)),
        test=test,
        abandoned=timeline_guard.load(spool),
        gap=gap.still_ahead(gap.load(spool), next(data_directory.newest_segments(cluster), "")),
        hosts=_look_at_hosts(call, test),
    )
    render = {options.PLAIN: plain, options.JSON: as_json, options.PROMETHEUS: prometheus}[call.options.form]
    print(render(status, time.time()))
    return 0


def _look_at_hosts(call: Call, test: LastTest) -> Dict[str, str]:
    """Return how each of several hosts does: now, or when it was last tested."""
    hosts, memory = call.options.barman_hosts, call.host_memory()
    if len(hosts) == 1:
        return {}
    return {host: memory.why_skipped(host) or test.hosts.get(host, "never tested") for host in hosts}


def as_json(status: Status, _now: float) -> str:
    """Return one JSON object, in one line."""
    test = {**status.test._asdict(), "is_disproved": is_disproved(status.test, status.counters)}
    found = {"counters": status.counters.__dict__, "test": test}
    gap = status.gap._asdict() if status.gap.missing else None
    abandoned = None
    if status.abandoned.timeline:
        abandoned = {**status.abandoned._asdict(), "description": status.abandoned.describe()}
    return json.dumps({**status._asdict(), **found, "gap": gap, "abandoned": abandoned})


def plain(status: Status, now: float) -> str:
    """Return lines for people. now: seconds since 1970."""
    done, test, spool = status.counters, status.test, status.spool
    errors = ", ".join(f"{count} {kind}" for kind, count in done.errors.items() if count)
    lines = [
        (
            "cluster",
            "recovering" if status.is_recovering else "not recovering: it was promoted, or never was a standby",
        ),
        (
            "restored",
            f"{done.restored} segments, {done.bytes >> 20} MiB; {done.ready} were ready when they were wanted",
        ),
        ("waited", f"{done.waited:.1f} s, PostgreSQL for WAL"),
        ("last", f"{done.last_segment}, {_ago(done.last_restored, now)}" if done.last_segment else "none"),
        ("absent", f"{done.absent} times a segment was not in the archive"),
        (
            "gap",
            f"{status.gap.missing} is not in the archive, {status.gap.later} is; seen {_ago(status.gap.time, now)}"
            if status.gap.missing
            else "none seen",
        ),
        (
            "timeline",
            f"the archive holds {status.abandoned.describe()}; seen {_ago(status.abandoned.time, now)}"
            if status.abandoned.timeline
            else "none seen that this server could not follow",
        ),
        ("errors", f"{errors}; {_ago(done.last_error_time, now)}: {done.last_error}" if errors else "none"),
        (
            "spool",
            f"{len(spool)} segments{f', {spool[0]} to {spool[-1]}' if spool else ''}; "
            f"room for {status.free_segments} more",
        ),
        ("process", "at work" if status.is_running else "none: nothing was wanted for a minute"),
        (
            "test",
            f"{_outcome(test)}, {_ago(test.time, now)}, in {test.seconds:.1f} s"
            f"{'; a segment was restored since' if is_disproved(test, done) else ''}"
            if test.time
            else "never run",
        ),
    ]
    lines += [("host", f"{host}: {error or 'ok'}") for host, error in status.hosts.items()]
    title = f"{status.server} from {status.barman_host.replace(',', ', ')}"
    return "\n".join([title, *(f"  {word:<9} {text}" for word, text in lines)])


def _outcome(test: LastTest) -> str:
    if test.unasked and not test.error:
        return f"ok, but the server could not be asked what it uses ({test.unasked})"
    return test.error or (f"ok, through barman-wal-gate {test.gate}" if test.gate else "ok, but through no gate")


def _ago(moment: float, now: float) -> str:
    seconds = max(0, int(now - moment))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def prometheus(status: Status, _now: float) -> str:
    """Return the text format that a node exporter's textfile collector reads."""
    done, test, abandoned = status.counters, status.test, status.abandoned
    is_well = test.time > 0 and (not test.error or is_disproved(test, done))
    labels = f'barman="{_escaped(status.barman_host)}",server="{_escaped(status.server)}"'
    metrics: List[Tuple[str, str, str, object]] = [
        ("restored_segments_total", "counter", "Segments delivered to PostgreSQL.", done.restored),
        ("ready_segments_total", "counter", "Segments that were ready when PostgreSQL wanted them.", done.ready),
        ("restored_bytes_total", "counter", "Bytes of the segments delivered.", done.bytes),
        ("waited_seconds_total", "counter", "Seconds that PostgreSQL has waited for WAL.", round(done.waited, 3)),
        ("absent_segments_total", "counter", "Times a segment was not in the archive.", done.absent),
        ("last_restored_timestamp_seconds", "gauge", "When a segment was last delivered.", done.last_restored),
        ("spool_segments", "gauge", "Segments that are ready.", len(status.spool)),
        ("spool_free_segments", "gauge", "Segments that still fit.", status.free_segments),
        ("recovering", "gauge", "1 while the cluster is in recovery.", int(status.is_recovering)),
        ("archive_gap", "gauge", "1 when the archive lacks WAL that comes next here.", int(bool(status.gap.missing))),
        ("abandoned_timeline", "gauge", "A timeline in the archive that cannot be followed, or 0.", abandoned.timeline),
        ("withheld_histories_total", "counter", "Times such a timeline was kept from PostgreSQL.", abandoned.withheld),
        ("test_timestamp_seconds", "gauge", "When the way to Barman was last tested.", test.time),
        ("test_duration_seconds", "gauge", "How long that test took.", round(test.seconds, 3)),
        ("test_unasked", "gauge", "1 when it could not ask the server what it uses.", int(bool(test.unasked))),
        ("test_success", "gauge", "1 when it ended well, or a segment was restored since.", int(is_well)),
    ]
    lines = [_metric(name, kind, text, [(labels, value)]) for name, kind, text, value in metrics]
    errors = [(f'{labels},kind="{kind}"', count) for kind, count in done.errors.items()]
    lines.append(_metric("errors_total", "counter", "Requests that failed, by kind.", errors))
    if status.hosts:
        hosts = [(f'{labels},host="{_escaped(host)}"', int(not error)) for host, error in status.hosts.items()]
        lines.append(_metric("host_success", "gauge", "1 when this one of several Barman hosts works.", hosts))
    return "\n".join(lines)


def _metric(name: str, kind: str, text: str, values: Sequence[Tuple[str, object]]) -> str:
    full = f"walbasin_{name}"
    return "\n".join(
        [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *(f"{full}{{{labels}}} {value}" for labels, value in values)]
    )


def _escaped(text: str) -> str:
    """Return a label's value.

    See https://prometheus.io/docs/instrumenting/exposition_formats.
    """
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
