"""A process in the sandbox that is talked with while it runs: pipes to its input and output, and a folder of whoever
started it.

The kernel ends what stands behind walls when the thread that started it ends, so all are started by one thread, which
lives as long as this process.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from luthier.scorers.sandbox import walls as kinds
from luthier.scorers.sandbox.inside import BOOT
from luthier.scorers.sandbox.running import START, environment, held
from luthier.scorers.sandbox.walls import Walls


class NeverBegan(RuntimeError):
    """The walls did not stand in time, or the process ended before they did: that says nothing of what was to run."""


@dataclass(frozen=True)
class Talking:
    """A process that stands behind its walls. `process`: what was started; `command`: the command itself, whose time
    counts, which may be a child of it."""

    process: subprocess.Popen[bytes]
    command: psutil.Process

    def stop(self) -> None:
        """End it and all it started. The command goes first, so that the walls round it end by themselves, and leave
        nobody behind."""
        if self.process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                self.command.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)
        with suppress(ProcessLookupError):  # where all of it has ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was still to be written has no reader any more
                    pipe.close()
        self.process.wait()


def talk(walls: Walls, job: Mapping[str, Any], folder: Path) -> Talking:
    """Start a command that works in `folder`, and wait until its walls stand; what it says on stderr goes to its
    output, too. Raises NeverBegan, and OSError where it cannot be started."""
    told, ready = os.pipe()
    try:
        process = _starter().submit(_started, walls, job, folder, ready).result()
    except BaseException:
        os.close(told)
        raise
    finally:
        os.close(ready)
    try:
        begun = bool(select.select([told], [], [], START)[0]) and os.read(told, 1) == b"R"
    finally:
        os.close(told)
    if not begun:
        process.kill()
        said = process.communicate()[0].decode("utf-8", "replace").strip()
        raise NeverBegan(said[-500:] or f"its walls did not stand within {START:g} seconds")
    return Talking(process, _innermost(psutil.Process(process.pid)))


def _started(walls: Walls, job: Mapping[str, Any], folder: Path, ready: int) -> subprocess.Popen[bytes]:
    reads = (*kinds.SYSTEM, *kinds.DEVICES[1:], *kinds.python_reads(), *job["reads"])
    whole = {
        **job, "folder": str(folder), "ready": ready, "walls": {**walls.inner(), "mount": False}, "reads": reads,
        "launcher": "luthier.scorers.sandbox.inside", "talks": True,
    }  # fmt: skip
    with held(marshal.dumps(whole)) as source:
        inner = [kinds.python(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", BOOT, str(source.fileno())]
        return subprocess.Popen(
            walls.command(str(folder), None, (*kinds.python_reads(), *job["reads"]), inner),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(str(folder)),
            cwd="/",
            pass_fds=(ready, source.fileno()),
            start_new_session=True,
        )


_STARTERS: dict[int, ThreadPoolExecutor] = {}
_ONE = threading.Lock()


def _starter() -> ThreadPoolExecutor:
    """The thread that starts them, one for all: what another had started would end with that. A process that was forked
    off has none of its parent's threads."""
    with _ONE:
        return _STARTERS.setdefault(os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="sandbox"))


def _innermost(process: psutil.Process) -> psutil.Process:
    """The process that started no other: the walls of some kinds are processes round it."""
    try:
        below = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return process
    return below[-1] if below else process
