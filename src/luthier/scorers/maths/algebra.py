"""Symbolic equality by `math-verify`, in processes that can be killed: sympy may think for ever, and in any thread."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import IO

from luthier.errors import LuthierError

STARTS = 120.0
"""Seconds that a process may take to import sympy, on a machine that is busy."""
WAITS = 20
"""The process counts its time on a processor; by the clock on the wall it may take so many times as long."""
WORKER = Path(__file__).with_name("worker.py")


class _Process:
    """One process, asked one pair at a time."""

    def __init__(self, seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if self._line(STARTS) != "ready":
            self.kill()
            raise LuthierError(
                "the process that compares expressions does not start",
                where="maths",
                fix=f"see what `{sys.executable} -P {WORKER} 5` says; `symbolic: false` does without it",
            )

    @property
    def ended(self) -> bool:
        """Was it killed from without?"""
        return self._process.poll() is not None

    def ask(self, expected: str, found: str, seconds: float) -> str | None:
        """What it says, or None where it died or was killed; then it is of no more use."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([expected, found]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        return self._line(seconds)

    def _line(self, seconds: float) -> str | None:
        clock = threading.Timer(seconds, self._process.kill)
        clock.daemon = True
        clock.start()
        try:
            out: IO[str] | None = self._process.stdout
            line = "" if out is None else out.readline()
        finally:
            clock.cancel()
        return str(json.loads(line)) if line.endswith("\n") else None

    def kill(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what was written last never arrived
                    continue
        self._process.wait()


class Algebra:
    """Compares expressions in at most `size` processes, started when they are needed and ended with this one."""

    def __init__(self, seconds: float, size: int) -> None:
        """`seconds`: how much of a processor's time a comparison may take."""
        self.size = size
        self.counts: Counter[str] = Counter()
        """How many pairs were found right and wrong; how many could not be told: unread, fault, out of time."""
        self._seconds, self._owner = seconds, os.getpid()
        self._places: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(size):
            self._places.put(None)

    @property
    def mine(self) -> bool:
        """False in a process that was forked: its parent's are not to be asked from here."""
        return self._owner == os.getpid()

    def __call__(self, expected: str, found: str) -> bool | None:
        """Are they equal? None where the expected one cannot be read, and where it took too long or failed.

        Raises LuthierError where no process can be started.
        """
        process, kept = self._places.get(), None
        try:
            if process is None or process.ended:
                process = _Process(self._seconds)
            told = process.ask(expected, found, WAITS * self._seconds)
            if told is None:
                process.kill()
            else:
                kept = process
        finally:
            self._places.put(kept)
        self.counts["out of time" if told is None else told.partition(":")[0]] += 1
        return {"right": True, "wrong": False}.get(told or "")

    def close(self) -> None:
        """End the processes that are idle; the next comparison starts one anew."""
        for _ in range(self.size):
            process = self._places.get()
            if process is not None:
                process.kill()
            self._places.put(None)


_OPEN: dict[float, Algebra] = {}
_LOCK = threading.Lock()


def algebra(seconds: float) -> Algebra:
    """The comparer of this process with this limit of time, the same for all who ask."""
    with _LOCK:
        found = _OPEN.get(seconds)
        if found is None or not found.mine:
            found = _OPEN[seconds] = Algebra(seconds, min(4, os.cpu_count() or 1))
        return found
