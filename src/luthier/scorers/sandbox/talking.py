"""A process in the sandbox that is talked with while it runs: pipes to its input and output, and a folder of whoever
started it.

The kernel ends what stands behind walls when the thread that started it ends, so all are started by one thread, which
lives as long as this process.
"""

from __future__ import annotations

import marshal
import os
import select
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
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
    """A process that stands behind its walls. `process`: what was started; `pid`: the command itself, whose time
    counts, which may be a child of it."""

    process: subprocess.Popen[bytes]
    pid: int


def talk(walls: Walls, job: Mapping[str, Any], folder: Path) -> Talking:
    """Start a command that works in `folder`, and wait until its walls stand; what it says on stderr goes to its
    output, too. Raises NeverBegan, and OSError where it cannot be started."""
    told, ready = os.pipe()
    try:
        process = _starter(os.getpid()).submit(_started, walls, job, folder, ready).result()
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
    return Talking(process, _innermost(process.pid))


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


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """The thread that starts them, of this process: one that was forked off has none of its parent's."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"sandbox-{process}")


def _innermost(pid: int) -> int:
    """The process that no other was started by: the walls of some kinds are processes round it."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return pid
    return below[-1].pid if below else pid
