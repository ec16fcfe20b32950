"""A step that makes rows, over all chunks in their order: it reads ahead as far as it likes, and is written as it goes.

What it asked for lies in the journal of calls. So a pass that was stopped begins anew, and is back where it was without
a call.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from luthier.data.curation.chunks import Placed, Shard
from luthier.data.curation.passing import BATCH, Task, Writer, counted, failed, tell
from luthier.data.ledger import Ledger
from luthier.data.steps.step import MakeStep, Outcome
from luthier.data.steps.tools import Tools
from luthier.data.tally import StepTally
from luthier.errors import LuthierError
from luthier.types import Example


def make(placed: Placed, tasks: Sequence[Task], tools: Tools, done: Callable[[int], None]) -> None:
    """Have the step make its rows, and write what becomes of each. Raises LuthierError where it fails."""
    waiting: deque[Example] = deque()
    outcomes = _outcomes(placed, _rows(tasks, waiting), tools, waiting)
    for task in tasks:
        assert isinstance(task.chunk.rows, Shard), "what comes before it was read already"
        tally, start, clock = StepTally(placed.at, placed.name), time.process_time(), time.perf_counter()
        with Writer(task, tools) as writer:
            passed: list[Example] = []
            for _ in task.chunk.rows.kept():
                outcome = next(outcomes)
                passed += counted(placed, waiting.popleft(), outcome, tally, writer.log)
                if len(passed) >= BATCH:
                    writer.add(passed)
                    passed = []
            writer.add(passed)
        tally.seconds, tally.wall = time.process_time() - start, time.perf_counter() - clock
        tell(task, Ledger(), [tally], writer, tally.seconds)
        done(1)


def _rows(tasks: Sequence[Task], waiting: deque[Example]) -> Iterator[Example]:
    """All rows; those that nothing was said of yet wait."""
    for task in tasks:
        for row in task.chunk.rows.examples(Ledger()):
            waiting.append(row)
            yield row


def _outcomes(placed: Placed, rows: Iterator[Example], tools: Tools, waiting: deque[Example]) -> Iterator[Outcome]:
    """What the step says of each. Raises LuthierError, which names the row that it stands at, where it fails."""
    assert isinstance(placed.step, MakeStep)
    try:
        yield from placed.step.make(rows, tools)
    except LuthierError as error:
        raise LuthierError(error.what, where=error.where or placed.label, fix=error.fix) from error
    except Exception as error:  # a step may be anyone's
        if not waiting:
            raise
        raise failed(placed, waiting[0], error) from error
    what = f"the step {placed.name!r} said nothing of some rows"
    raise LuthierError(what, where=placed.at, fix="`make` gives an outcome for each row, in order")


__all__ = ["make"]
