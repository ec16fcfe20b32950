"""Faults as the command line shows them: one plain message and a status, no traceback unless asked for."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from luthier.errors import LuthierError, Told
from luthier.run import Run

FULL = (errno.ENOSPC, errno.EDQUOT)
FIXES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file: name another place",
    errno.EEXIST: "name another place, or remove it",
    errno.EISDIR: "name a file, not a folder",
    errno.EROFS: "it cannot be written to: name a place on another disk",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.EMFILE: "see `ulimit -n`",
}
"""The system's own faults → what to do."""
STOPPED = 130
"""The shell's status for a command that Ctrl-C ended."""


def report(error: BaseException, *, debug: bool = False, resumes: bool = False) -> int:
    """Say on stderr what went wrong; the exit status. `debug`: the traceback too. `resumes`: would the command, given
    again, go on from where it was stopped?"""
    if isinstance(error, Told):
        return error.status
    if debug and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        _say("stopped; run the same command to resume" if resumes else "stopped")
        return STOPPED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing is wrong
        return 0
    _say("\n  ".join([f"error: {words(error)}", *getattr(error, "__notes__", ())]))
    return 1


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """What ends the work in here is an event of the run, too, for `luthier diagnose`."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if run.events_path.exists() and not isinstance(error, Told):
            with suppress(OSError, LuthierError):  # a full disk, a folder that went away: the fault itself is told
                stopped = isinstance(error, KeyboardInterrupt)
                text = "stopped" if stopped else words(error)
                run.event("failed", text=text, memory=any(map(_of_memory, _behind(error))), stopped=stopped)
        raise


def words(error: BaseException) -> str:
    """The fault in plain words, with what to do about it."""
    if isinstance(error, LuthierError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return str(_of_system(error))
    if _of_memory(error):
        return str(
            LuthierError(
                "out of memory",
                fix="lower train.max_tokens or train.micro_tokens, or take a smaller adapter (rank, size) or model",
            )
        )
    if isinstance(error, ModuleNotFoundError):
        return str(LuthierError(f"the package {error.name!r} is not installed", fix=f"pip install {error.name}"))
    first = str(error).strip().splitlines()
    return str(
        LuthierError(
            f"something went wrong inside Luthier: {type(error).__name__}: {first[0] if first else ''}".rstrip(": "),
            fix="this is a fault of ours; `--debug` shows where",
        )
    )


def _behind(error: BaseException) -> Iterator[BaseException]:
    """A fault, and those it came of."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _of_memory(error: BaseException) -> bool:
    """Is there too little memory? torch's own kind of error goes by name, for this floor never imports torch."""
    by_name = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return by_name or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _of_system(error: OSError) -> LuthierError:
    named = error.filename if error.filename2 is None else error.filename2  # of a move, where to: that is the user's
    where = str(named) if named is not None else None
    if error.errno in FULL:
        return LuthierError("no space left on the disk", where=where, fix="free space there, or set another `output:`")
    if error.errno == errno.EFBIG:
        return LuthierError("the file would be larger than this account may write", where=where, fix="see `ulimit -f`")
    if isinstance(error, PermissionError):
        return LuthierError("permission denied", where=where, fix="give this account the right, or name another place")
    fix = FIXES.get(error.errno or 0, "look at that place; `--debug` shows what was done there")
    return LuthierError(os.strerror(error.errno).lower() if error.errno else str(error), where=where, fix=fix)


def _say(text: str) -> None:
    """One message on stderr, its head in red where there are colours."""
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ and text.startswith("error: "):
        text = "\033[1;31merror:\033[0m " + text.removeprefix("error: ")
    print(text, file=sys.stderr, flush=True)
