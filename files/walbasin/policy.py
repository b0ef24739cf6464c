"""Name what can become of a request, and how a data directory is being recovered.

The calls of restore_command and the prefetch process both speak in these words.
"""

from typing import NamedTuple, Optional, Sequence, Tuple

from walbasin.wal.passive import is_same_host

# Recovery modes. STANDBY stands for "no signal file at all" as well.
STANDBY, RECOVERY = "standby", "recovery"

# Outcomes.
DELIVERED = "delivered"
ABSENT = "absent"  # the archive answered: not there
GAP = "gap"  # not there, but the archive holds what only comes after it
ABANDONED = "abandoned"  # it may be there, but this server could not start with it
UNCONFIRMED = "unconfirmed"  # the first host has none, one that could have it was not heard
UNHEARD = "unheard"  # others have none, the first host was not heard
UNKNOWN = "unknown"  # could not find out
SKIPPED = "skipped"  # not tried: Barman could not be reached a moment ago
INVALID = "invalid"  # what came failed verification
LOCAL_ERROR = "local_error"  # wrong usage, or a disk that cannot be written


class Evidence(NamedTuple):
    """Hold what is known about a file that the archive did not have.

    is_in_pg_wal: PostgreSQL has it itself. is_listed: the archive lists it, so it came
    meanwhile. is_on_parent: it belongs to a parent of its timeline, where PostgreSQL
    asks for it next. later: what the archive holds that only comes after it. neighbour:
    a segment with which the archive has shown that it is this cluster's. is_passive:
    the archive is a copy of another Barman's, and may be behind. unproved: the one of
    several hosts whose archive has nothing older.
    """

    is_in_pg_wal: bool = False
    is_listed: bool = False
    is_on_parent: bool = False
    later: str = ""
    neighbour: str = ""
    is_passive: bool = False
    unproved: str = ""


def judge_absence(name: str, mode: str, evidence: Evidence) -> Tuple[str, str]:
    """Return the outcome for file `name`, which the archive does not have, and why.

    In a point-in-time recovery ABSENT ends the recovery. So it must be proved: the
    archive has shown that it is this cluster's, and holds nothing later.

    >>> judge_absence("000000010000000000000005", RECOVERY, Evidence())[0]
    'unknown'
    >>> before = "000000010000000000000004"
    >>> judge_absence("000000010000000000000005", RECOVERY, Evidence(neighbour=before))
    ('absent', 'recovery ends here')
    """
    is_history = name.endswith(".history")
    gap = "the archive has WAL of this timeline, but not its history" if is_history else "the archive has a gap here"
    on_host = f" on {evidence.unproved}" if evidence.unproved else ""
    rules = (
        (evidence.is_in_pg_wal, ABSENT, "PostgreSQL has it in pg_wal"),  # and looks there next
        (evidence.is_listed and mode != STANDBY, UNKNOWN, "not found at first, but the archive lists it now"),
        (evidence.is_on_parent, ABSENT, "PostgreSQL asks for it on the parent timeline next"),
        (evidence.later, GAP, f"{gap}: it holds {evidence.later}"),
        (mode == STANDBY, ABSENT, ""),
        (
            not evidence.neighbour,
            UNKNOWN,
            f"the archive{on_host} does not have it, nor anything before it: is it this cluster's, and all there?",
        ),
        (
            evidence.is_passive,
            UNKNOWN,
            "this Barman is a passive copy, and does not have it yet; the Barman that it copies may",
        ),
        (True, ABSENT, "recovery ends here"),
    )
    return next((outcome, text) for holds, outcome, text in rules if holds)


class HostAnswer(NamedTuple):
    """Hold what one of several Barman hosts has said of a file.

    outcome: DELIVERED, ABSENT, INVALID, UNKNOWN, or SKIPPED. detail: the cause in
    words. copied: the Barman host whose archive it is known to copy; empty when it is
    not known whose, None when it is nobody's.
    """

    host: str
    outcome: str
    detail: str = ""
    copied: Optional[str] = None

    @property
    def is_passive(self) -> bool:
        """Return whether the host is known to copy the archive of another Barman."""
        return self.copied is not None


def must_be_heard(answers: Sequence[HostAnswer]) -> Sequence[HostAnswer]:
    """Return the answers of the hosts that could have what the others do not have.

    A passive copy has nothing newer than the host that it copies. So once that one has
    said no, the copy need not be heard. The reverse never holds, nor does it hold for
    the copy of a host that is none of these.
    """
    without = [answer.host for answer in answers if answer.outcome == ABSENT and not answer.is_passive]
    return [
        answer
        for answer in answers
        if not answer.copied or not any(is_same_host(answer.copied, host) for host in without)
    ]


def judge_answers(answers: Sequence[HostAnswer]) -> Tuple[str, str]:
    """Return the outcome for a file that several hosts were asked for, and why.

    A yes is true from any host. A no is true only when every host that could have the
    file has said it. answers: in order of preference. The words are empty where there
    is nothing to tell. Modes of recovery differ in what follows (exit_status.decide).

    >>> judge_answers([HostAnswer("a", ABSENT), HostAnswer("b", ABSENT)])
    ('absent', '')
    >>> judge_answers([HostAnswer("a", ABSENT), HostAnswer("b", UNKNOWN, "it is down")])
    ('unconfirmed', 'a has none, and b could not be asked: it is down')
    """
    source = next((answer.host for answer in answers if answer.outcome == DELIVERED), "")
    if source:  # those behind it may have been asked too early
        answers = answers[: [answer.host for answer in answers].index(source)]
    refused = [answer for answer in answers if answer.outcome == INVALID]
    refusals = "; ".join(f"what came from {answer.host} was refused: {answer.detail}" for answer in refused)
    without = [answer for answer in answers if answer.outcome == ABSENT]
    hosts_without = " and ".join(answer.host for answer in without) + (
        " has none" if len(without) == 1 else " have none"
    )
    if source:
        return DELIVERED, _describe_delivery(answers, source, refusals, hosts_without if without else "")
    if refused:
        return INVALID, f"{refusals}; {hosts_without}" if without else refusals
    needed = must_be_heard(answers)
    unheard = [answer for answer in needed if answer.outcome != ABSENT]
    if not unheard:
        return ABSENT, ""
    causes = "; ".join(dict.fromkeys(answer.detail for answer in unheard if answer.detail))
    if not without:
        is_skipped = all(answer.outcome == SKIPPED for answer in answers)
        return SKIPPED if is_skipped else UNKNOWN, causes
    if all(answer.is_passive for answer in without):
        hosts_without += ", but only copies another Barman's archive, with a delay"
    text = f"{hosts_without}, and {' and '.join(answer.host for answer in unheard)} could not be asked: {causes}"
    first = next((answer for answer in answers if not answer.is_passive), unheard[0])
    return UNCONFIRMED if first.outcome == ABSENT else UNHEARD, text


def _describe_delivery(answers: Sequence[HostAnswer], source: str, refusals: str, hosts_without: str) -> str:
    """Return what is worth knowing of the hosts before the one that had a file."""
    causes = "; ".join(answer.detail for answer in answers if answer.outcome == UNKNOWN)
    texts = []
    if causes:
        texts.append(f"{causes}: the WAL comes from {source}")
    if refusals:
        texts.append(f"{refusals}; {source} has it")
    if hosts_without:
        texts.append(f"{hosts_without}, {source} has it: a gap there, or it was trimmed")
    return "; ".join(texts)
