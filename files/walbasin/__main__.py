"""Start `restore` or `gate`, with the arguments of that program.

The two shell scripts beside this package call it.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Added to the exit status; the shell script beside us takes it off again. Python's own
# failures end with 1, which PostgreSQL reads as "not in the archive".
RESTORE_OFFSET = 100


def _restore(words: "list[str]") -> int:
    from walbasin.local import handover

    shell, spool, look, server, name, destination, *words = words
    handover.shell_pid = int(shell)
    try:
        return _call(spool, bool(look), [server, name, destination], words)
    except handover.ParentGone:
        # Nobody sees this status. If somebody does, something has come between shell
        # and Python, and nothing was delivered.
        return 1


def _call(spool: str, look: bool, operands: "list[str]", words: "list[str]") -> int:
    """Return the exit status of one call.

    spool: found by the shell, without the segment in it, or empty. The shell has then
    taken the command line (words) apart as well. look, operands: see fast_path.
    """
    reply = None
    if spool:
        from walbasin.fetcher import fast_path

        status, reply = fast_path.run(spool, look, operands, words)
        if status is not None:
            return RESTORE_OFFSET + status
    from walbasin.fetcher.exit_status import FATAL_STATUS
    from walbasin.fetcher.main import main

    status = main(words, reply)
    return status if status == FATAL_STATUS else RESTORE_OFFSET + status


def _gate(words: "list[str]") -> int:
    from walbasin.gate.main import main

    return main(words)


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    sys.exit({"restore": _restore, "gate": _gate}[program](arguments))
