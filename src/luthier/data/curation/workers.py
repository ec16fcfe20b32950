"""Chunks in several processes, each of which reads and writes files of its own: nothing but orders goes over pipes."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

from luthier.data.curation.passing import Task, work
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError

ALONE = 8 * 2**20
"""Bytes that are worked through before another process would have started."""


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(tasks: Sequence[Task], tools: Tools, processes: int, tell: Callable[[int], None]) -> None:
    """Do all tasks. `tell`: is told of each that is done. Raises LuthierError as `work` does."""
    alone = processes <= 1 or sum(task.chunk.rows.weight for task in tasks) <= ALONE or any(map(_wants, tasks))
    there = [] if alone else [task for task in tasks if _goes(task)]
    others = {task.index for task in there}
    for task in tasks:
        if task.index not in others:
            work(task, tools)
            tell(1)
    if there:
        _together(there, min(processes, len(there)), tell)


def _wants(task: Task) -> bool:
    """Does a step of it want what only this process has?"""
    steps = [*task.chunk.steps, *(one.placed for one in task.measured)]
    return any(placed.step.wants for placed in steps)


def _goes(task: Task) -> bool:
    """Can it be told to another process? A hub's rows, and steps defined in a script, cannot."""
    try:
        return b"__main__" not in pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def _together(tasks: Sequence[Task], processes: int, tell: Callable[[int], None]) -> None:
    left: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        left.put(task)
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workers = [_Worker() for _ in range(processes)]
    threads = [threading.Thread(target=_drive, args=(one, left, told), daemon=True) for one in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in tasks:
            fault = told.get()
            if fault is not None:
                raise fault
            tell(1)
    finally:
        for one in workers:
            one.close()


def _drive(worker: _Worker, left: queue.SimpleQueue[Task], told: queue.SimpleQueue[Any]) -> None:
    """Give a process tasks until there are no more, or one has failed."""
    while True:
        try:
            task = left.get_nowait()
        except queue.Empty:
            return
        fault = worker.do(task)
        told.put(fault)
        if fault is not None:
            return


class _Worker:
    """One process, given one task at a time."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "luthier.data.curation.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )

    def do(self, task: Task) -> Exception | None:
        """None where it is done, else what went wrong."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump(task, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            status = self._process.wait()
            what = f"a process that worked on rows ended by itself (status {status})"
            fix = "perhaps memory ran out: run it again, it goes on where it was; `--processes 1` takes the least"
            return LuthierError(what, where=task.chunk.name or task.folder, fix=fix)
        if answer is None:
            return None
        kind, told = answer
        return LuthierError(told[0], where=told[1], fix=told[2]) if kind == "told" else RuntimeError(told)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what was written last never arrived
                    continue
        self._process.wait()


def serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    """Do tasks as they come, until there are no more."""
    import traceback

    while True:
        try:
            task: Task = pickle.load(orders)
        except EOFError:
            return
        answer: Any = None
        try:
            work(task, Tools(task.seed))
        except LuthierError as error:
            answer = ("told", (error.what, error.where, error.fix))
        except Exception:
            answer = ("fault", traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


def main() -> None:
    """A process of curation. What steps print goes to stderr; Ctrl-C is for the first process to see."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()


__all__ = ["ALONE", "cores", "run", "serve"]
