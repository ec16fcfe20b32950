"""Algebra in a process of its own: reads a pair of expressions a line, answers whether they are equal.

Run by `algebra.Algebra` as a file, so it imports nothing of Luthier. What sympy is asked may take for ever, or all
memory: the clock below ends the process, whatever it is doing and whether or not anybody still waits for it. It counts
the processor's time, so that a busy machine judges as an idle one does.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from typing import Any

MEMORY = 4 << 30
"""Bytes of address space that one may have."""


def set_clock(seconds: float) -> None:
    """Let the process end after so much of the processor's time; 0: not at all. Windows has no such clock."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends a process that does not catch it


def main(seconds: float) -> None:
    logging.disable(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, parse, verify

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # not everywhere; the clock still stands
        pass

    def read(text: str) -> list[Any]:
        config = LatexExtractionConfig()
        return list(parse(f"${text}$", [config], fallback_mode="no_fallback", parsing_timeout=None))

    def judged(expected: str, found: str) -> str:
        known, told = read(expected), read(found)
        if not known:
            return "unread"
        if not told:
            return "wrong"
        equal = verify(known, told, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
        return "right" if equal else "wrong"

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        set_clock(seconds)
        try:
            answer = judged(*json.loads(line))
        except (Exception, RecursionError, MemoryError) as error:
            answer = f"fault: {type(error).__name__}"
        set_clock(0.0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
