"""Run one command and account for it: wall time, and the peak resident memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Measured:
    """What one command took. `started` is Unix time; `peak_bytes` counts every process of the tree."""

    started: float
    seconds: float
    peak_bytes: int
    status: int
    busy_before: float
    """How busy the processor was in the second before it started, in per cent: above a few, something else ran."""


def _tree_memory(root: psutil.Process) -> int:
    """What the processes of a tree hold together. A page that several share, as just after a fork, counts once."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended between the listing and the look
    return total


def measured(command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path, nice: int = 0) -> Measured:
    """Run `command` with stdout and stderr in `log`. Memory: the kernel's own peak, or the tree's sum if larger."""
    busy = psutil.cpu_percent(interval=1.0)
    started, peak = time.time(), 0
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=dict(env), cwd=cwd, preexec_fn=lambda: os.nice(nice)
        )
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.5):
                try:
                    peak = max(peak, _tree_memory(psutil.Process(child.pid)))
                except psutil.NoSuchProcess:
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.time() - started
        done.set()
        watcher.join()
    return Measured(started, seconds, max(peak, usage.ru_maxrss * 1024), child.returncode, busy)
