"""Where the two scripts beside this package start it: `restore` or `gate`, and the arguments of that program."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# The shell script beside us takes it off again. Python's own failures end with 1, which PostgreSQL reads as "absent".
RESTORE_OFFSET = 100


def _restore(words: "list[str]") -> int:
    from walbasin.local import handover

    shell, spool, *words = words
    handover.pid = int(shell)
    try:
        return _call(spool, words)
    except handover.Gone:
        # Nobody sees it. If somebody does, something has come between shell and Python, and nothing was delivered.
        return 1


def _call(spool: str, words: "list[str]") -> int:
    answer = None
    if spool:  # the shell has found it, and not the segment in it
        from walbasin.local import ipc

        status, answer = ipc.first(spool, words)
        if status is not None:
            return RESTORE_OFFSET + status
    from walbasin import policy
    from walbasin.fetcher.main import main

    status = main(words, answer)
    return status if status == policy.STOP else RESTORE_OFFSET + status


def _gate(words: "list[str]") -> int:
    from walbasin.gate.main import main

    return main(words)


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    sys.exit({"restore": _restore, "gate": _gate}[program](arguments))
