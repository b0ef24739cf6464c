"""Remember what is known of each of several Barman hosts, from call to call."""

import time
from typing import Dict, Optional

from walbasin.local.spool import HOST_NOTE, Spool, quoted

# Seconds for which a host is not asked: one that could not be reached, and one whose
# archive is of another cluster.
OUTAGE_SECONDS, FOREIGN_SECONDS = 15, 600
# Seconds for which a host counts as passive that has said so. Each -t asks it again.
PASSIVE_SECONDS = 86400


class HostMemory:
    """Keep notes on hosts in the spool, or in memory where there is none."""

    def __init__(self, spool: Optional[Spool]) -> None:
        self._spool = spool
        self._notes: Dict[str, str] = {}

    def note_outage(self, host: str, cause: str) -> None:
        """Note that a host could not be reached, and why, in words."""
        self._save(_skip(host), f"{time.monotonic() + OUTAGE_SECONDS}\n{cause}")

    def note_answer(self, host: str) -> None:
        """Note that a host has answered."""
        self._remove(_skip(host))

    def note_foreign(self, host: str) -> None:
        """Note that a host has the archive of another cluster."""
        cause = f"{host} has the archive of another cluster"
        self._save(_foreign(host), f"{time.monotonic() + FOREIGN_SECONDS}\n{cause}")

    def note_ours(self, host: str) -> None:
        """Note that a file of this cluster has come from a host."""
        self._remove(_foreign(host))

    def why_foreign(self, host: str) -> str:
        """Return why a host is not asked for long, or an empty string."""
        return self._cause(_foreign(host))

    def why_skipped(self, host: str) -> str:
        """Return why a host is not asked now, or an empty string."""
        return self.why_foreign(host) or self._cause(_skip(host))

    def note_missed(self, name: str) -> None:
        """Note that no host has a file: PostgreSQL will ask for it again."""
        if not self.was_missed(name):
            self._save(f"{HOST_NOTE}missed", name)

    def was_missed(self, name: str) -> bool:
        """Return whether no host had a file when it was last asked for."""
        return self._load(f"{HOST_NOTE}missed") == name

    def note_passive(self, host: str, copied: Optional[str]) -> None:
        """Note whose archive a host copies (HostAnswer.copied)."""
        if self._spool is not None:
            self._spool.save_text(_passive(host), "0" if copied is None else f"{time.time()}\n{copied}")

    def copied(self, host: str) -> Optional[str]:
        """Return whose archive a host is known to copy (HostAnswer.copied)."""
        text = self._spool.load_text(_passive(host)) if self._spool is not None else ""
        noted_at, _, copied = text.partition("\n")
        return copied if 0 <= time.time() - float(noted_at or 0) < PASSIVE_SECONDS else None

    def _cause(self, name: str) -> str:
        until, _, cause = self._load(name).partition("\n")
        return cause or "it was not reached" if until and float(until) > time.monotonic() else ""

    def _remove(self, name: str) -> None:
        self._notes.pop(name, None)
        if self._spool is not None:
            self._spool.remove([name])

    def _save(self, name: str, text: str) -> None:
        self._notes[name] = text
        if self._spool is not None:
            self._spool.save_note(name, text)

    def _load(self, name: str) -> str:
        kept = self._spool.load_note(name) if self._spool is not None else ""
        return kept or self._notes.get(name, "")


def _skip(host: str) -> str:
    return f"{HOST_NOTE}skip.{quoted(host)}"


def _foreign(host: str) -> str:
    return f"{HOST_NOTE}foreign.{quoted(host)}"


def _passive(host: str) -> str:
    return f"{HOST_NOTE}passive.{quoted(host)}"
