"""Starting a checker: in a folder of its own, under limits, and ended with all that it has started.

Everything that runs a checker goes through `start`, so that a stronger sandbox has one place to stand.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from luthier.scorers.proofs.checker import CheckerFailed

LIMITED = 'ulimit -c 0; ulimit -f "$1"; ulimit -t "$2"; ulimit -v "$3"; shift 3; exec "$@"'
"""Limits are set by a shell and not between fork and exec in this process, which has threads."""
FILE_BLOCKS = 64 * 2048
"""The largest file it may write: 64 MiB in blocks of 512 bytes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one proof may use."""

    seconds: float = 10.0
    """Processor seconds for one proof."""
    memory: int = 2048
    """MiB of address space."""


def patience(seconds: float) -> float:
    """Seconds on the clock after which a checker that may use so many of the processor's, and did not, has failed."""
    return 6 * seconds + 10


def start(command: Sequence[str], folder: Path, limits: Limits, *, cpu: float) -> subprocess.Popen[bytes]:
    """Start a checker in `folder` with pipes to its input and output; what it says on stderr goes to its output, too.

    `cpu`: processor seconds for the whole process, which ends it even if nobody is left to do so.
    """
    shell = ["/bin/sh", "-c", LIMITED, "sh", str(FILE_BLOCKS), str(int(cpu) + 1), str(limits.memory * 1024)]
    return subprocess.Popen(
        [*shell, *command],
        cwd=folder,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a checker and its whole process group."""
    with suppress(ProcessLookupError):  # where all of it has ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what was still to be written has no reader any more
                pipe.close()
    process.wait()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a checker that ran to its end came out. `late`: it was stopped for using too much time."""

    status: int
    output: str
    late: bool = False


def run(command: Sequence[str], folder: Path, limits: Limits) -> Ended:
    """Run a checker to its end and read what it says, at most 1 MiB of it. Raises CheckerFailed if it got no time."""
    process = start(command, folder, limits, cpu=limits.seconds)
    try:
        output, _ = process.communicate(timeout=patience(limits.seconds))
    except subprocess.TimeoutExpired as error:
        raise CheckerFailed(f"{Path(command[0]).name} gets no processor: too much else is running") from error
    finally:
        end(process)
    late = process.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGKILL)
    return Ended(process.returncode, output[: 1 << 20].decode("utf-8", "replace"), late)
