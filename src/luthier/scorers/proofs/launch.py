"""Starting a checker: behind walls (`scorers.sandbox`), in a folder of its own, under limits, and ended whole.

Everything that runs a checker goes through `start`. What a proof may say is looked at before the checker hears it; the
walls are for what that overlooks.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from luthier.scorers.proofs.checker import CheckerFailed
from luthier.scorers.sandbox import Limits as Most
from luthier.scorers.sandbox import NeverBegan, Sandbox, Talking

SETTINGS = ("/etc/ocamlfind.conf", "/etc/ocamlfind.conf.d")
"""Without which Coq, as Debian packs it, does not begin."""
FILES = 64
"""MiB of the largest file it may write."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one proof may use."""

    seconds: float = 10.0
    """Processor seconds for one proof."""
    memory: int = 2048
    """MiB of address space."""
    walls: Literal["required", "best"] = "required"
    """required: refuse to check where no walls stand; best: what walls there are."""


def patience(seconds: float) -> float:
    """Seconds on the clock after which a checker that may use so many of the processor's, and did not, has failed."""
    return 6 * seconds + 10


def start(command: Sequence[str], folder: Path, limits: Limits, *, cpu: float) -> Talking:
    """Start a checker in `folder` with pipes to its input and output; what it says on stderr goes to its output, too.

    `cpu`: processor seconds for the whole process, which ends it even if nobody is left to do so. Raises LuthierError
    where no walls stand, and CheckerFailed where it does not begin to run.
    """
    program = shutil.which(command[0])
    if program is None:
        raise CheckerFailed(f"{command[0]} cannot be run")
    sandbox = sandboxed(limits, cpu, program)
    sandbox.tell("proof")
    try:
        return sandbox.talk([program, *command[1:]], folder)
    except (NeverBegan, OSError) as error:
        raise CheckerFailed(f"{Path(program).name} does not begin to run: {error}") from error


def sandboxed(limits: Limits, cpu: float, program: str | None = None) -> Sandbox:
    """Where checkers run."""
    most = Most(seconds=int(cpu) + 1, memory_mb=limits.memory, space_mb=FILES)
    return Sandbox(most, limits.walls, reads=() if program is None else around(program))


def around(program: str) -> tuple[str, ...]:
    """What a program must be able to read beside the system's own: what was installed with it."""
    found = []
    for path in dict.fromkeys((Path(program), Path(program).resolve())):
        root = path.parent.parent if path.parent.name == "bin" else path.parent
        if root not in (Path("/"), Path("/usr"), Path.home()):
            found.append(str(root))
    return (*found, *SETTINGS)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a checker that ran to its end came out. `late`: it was stopped for using too much time."""

    status: int
    output: str
    late: bool = False


def run(command: Sequence[str], folder: Path, limits: Limits) -> Ended:
    """Run a checker to its end and read what it says, at most 1 MiB of it. Raises CheckerFailed if it got no time."""
    started = start(command, folder, limits, cpu=limits.seconds)
    process = started.process
    try:
        output, _ = process.communicate(timeout=patience(limits.seconds))
    except subprocess.TimeoutExpired as error:
        raise CheckerFailed(f"{Path(command[0]).name} gets no processor: too much else is running") from error
    finally:
        started.stop()
    late = process.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGKILL)
    return Ended(process.returncode, output[: 1 << 20].decode("utf-8", "replace"), late)
