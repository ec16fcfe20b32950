"""A sandbox: programs that nobody has read run behind walls, within limits, and leave nothing behind.

`Sandbox().run(["coqc", "proof.v"], files={"proof.v": text})` gives an `Outcome`. What the walls are is found out once
(`walls.py`). A process is ready when the walls stand; only then does its time run, and only before may it fail through
no fault of its own (`Outcome.ended == "start"`).
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from luthier.errors import LuthierError
from luthier.scorers.sandbox import walls as kinds
from luthier.scorers.sandbox.kit import parcel
from luthier.scorers.sandbox.running import Outcome, Running, start
from luthier.scorers.sandbox.talking import NeverBegan, Talking, talk
from luthier.scorers.sandbox.walls import Walls

LOG = logging.getLogger(__name__)
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
_PLACES = threading.BoundedSemaphore(CORES)
_TOLD = threading.Lock()
_told: set[str] = set()
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a process may use."""

    seconds: float = 5.0
    """Of CPU time; a busy machine does not shorten it."""
    wall: float | None = None
    """Seconds by the clock, from when it begins to run. None: three times `seconds`, and one more."""
    memory_mb: int = 512
    space_mb: int = 32
    """Of all files it writes."""
    output_kb: int = 256
    """Of what it says, on each of its two outputs."""
    processes: int = 1
    """At most so many; 1 forbids it to start any (threads are allowed)."""
    open_files: int = 64

    @property
    def clock(self) -> float:
        """The limit by the clock."""
        return 3 * self.seconds + 1 if self.wall is None else self.wall

    def of_kernel(self) -> dict[str, int]:
        """As `setrlimit` takes them."""
        named = {
            "CPU": math.ceil(self.seconds),
            "AS": self.memory_mb * MIB,
            "FSIZE": self.space_mb * MIB,
            "NOFILE": self.open_files,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
        }
        return named if self.processes == 1 else {**named, "NPROC": self.processes}


@dataclass(frozen=True)
class Sandbox:
    """Where programs run that nobody has read. Can be used from many threads at once."""

    limits: Limits = field(default_factory=Limits)
    require: Literal["required", "best"] = "required"
    """required: refuse to run anything where files and network are within its reach; best: what walls there are."""
    reads: tuple[str, ...] = ()
    """Further files and folders that it may read."""
    kind: kinds.Kind | None = None
    """These walls and no others. None: the strongest there are."""

    def walls(self) -> Walls:
        """The walls that stand. Raises LuthierError where they are not enough."""
        found = best() if self.kind is None else _standing(self.kind)
        if found is None or (self.require == "required" and not found.whole):
            raise LuthierError(
                f"no walls ({self.kind or 'of any kind'}) keep a program from this machine's files and network",
                where="sandbox",
                fix="install bubblewrap (Debian: apt-get install bubblewrap), or use Linux 6.2 or newer, where "
                "Landlock needs no rights; `walls: best` runs programs all the same, with this user's rights",
            )
        if self.limits.processes > 1 and found.kind == "filters":
            raise LuthierError(
                "a command of several processes needs walls that end them all, and there is no process namespace here",
                where="sandbox",
                fix="install bubblewrap, or allow user namespaces (sysctl user.max_user_namespaces)",
            )
        return found

    def tell(self, whose: str) -> None:
        """Say on screen, once in a process, behind which walls `whose` programs run."""
        with _TOLD:
            if whose in _told:
                return
            _told.add(whose)
        LOG.warning("%s: programs run behind %s", whose, self.walls())

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of as many places as there are cores: more at once would only wait for each other."""
        with _PLACES:
            yield

    def run(
        self,
        command: Sequence[str],
        files: Mapping[str, str | bytes] | None = None,
        stdin: str | bytes | None = None,
    ) -> Outcome:
        """Run a command in a folder of its own that holds `files`. Raises LuthierError as `walls` does."""
        with self.place(), self.start(command=command, files=files, stdin=stdin) as running:
            return running.finish(self.limits.clock)

    def start(
        self,
        command: Sequence[str] = (),
        modules: Sequence[str] = (),
        work: Any = None,
        *,
        files: Mapping[str, str | bytes] | None = None,
        stdin: str | bytes | None = None,
        packages: Sequence[str] = (),
        fds: Sequence[int] = (),
        quiet: bool = False,
    ) -> Running:
        """Start a command, or `main(work)` of the last of our `modules`, and come back at once.

        `fds`: open files that are handed on. `packages`: folders on the module path. `quiet`: nobody hears it.
        Use as a context manager, in one thread: leaving it, or that thread's end, ends whatever is left.
        """
        return start(
            self.walls(),
            {
                "command": list(command),
                "modules": parcel(*LAUNCHER, *modules),
                "start": modules[-1] if modules else "",
                "work": work,
                "files": {_within(name): _bytes(content) for name, content in (files or {}).items()},
                "stdin": None if stdin is None else _bytes(stdin),
                "packages": list(packages),
                "quiet": quiet,
                "limits": self.limits.of_kernel(),
                "processes": self.limits.processes,
                "space": self.limits.space_mb * MIB,
                "reads": (*self.reads, *packages),
            },
            fds,
            self.limits.output_kb * 1024,
        )

    def talk(self, command: Sequence[str], folder: Path) -> Talking:
        """Start a command that is talked with, in a folder of yours that it may write to. Its time by the clock is
        yours to watch, and so is its end. Raises LuthierError as `walls` does, and NeverBegan."""
        job = {
            "command": list(command), "modules": parcel(*LAUNCHER), "start": "", "work": None, "files": {},
            "stdin": None, "packages": [], "quiet": False, "limits": self.limits.of_kernel(),
            "processes": self.limits.processes, "reads": self.reads,
        }  # fmt: skip
        return talk(self.walls(), job, folder)


LAUNCHER = (
    *(["luthier.scorers.sandbox.kernel"] if sys.platform == "linux" else []),
    "luthier.scorers.sandbox.inside",
)


def _within(name: str) -> str:
    """A file's name, if it lies in the sandbox's folder: files are laid out before the walls close."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise LuthierError("a file of a sandbox must lie in its folder", where=repr(name), fix="give a relative name")
    return name


def _bytes(text: str | bytes) -> bytes:
    return text.encode("utf-8", "replace") if isinstance(text, str) else text


@cache
def best() -> Walls | None:
    """The strongest walls that stand on this machine; None where not even limits can be set."""
    return next((found for kind in kinds.KINDS if (found := _standing(kind)) is not None), None)


@cache
def _standing(kind: kinds.Kind) -> Walls | None:
    """These walls, if something could be run behind them."""
    tried = Walls(kind)
    job: dict[str, Any] = {
        "command": [], "modules": parcel(*LAUNCHER, "luthier.scorers.sandbox.trial"), "work": None, "files": {},
        "start": "luthier.scorers.sandbox.trial", "stdin": None, "packages": [], "quiet": False, "processes": 1,
        "limits": Limits().of_kernel(), "space": MIB, "reads": (),
    }  # fmt: skip
    try:
        with start(tried, job, (), 1024) as running:
            ended = running.finish(10.0)
    except (OSError, subprocess.SubprocessError, ImportError):
        return None
    return tried if ended.ended == "exit" and ended.out == "behind walls" else None


__all__ = ["CORES", "Limits", "NeverBegan", "Outcome", "Running", "Sandbox", "Talking", "Walls", "best"]
