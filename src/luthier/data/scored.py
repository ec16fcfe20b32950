"""The rows that a recipe is scored on, as the data room looks at them: those of tasks are its own to read, those of
benchmarks an upper room knows, which joins its reader in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from luthier.data.ledger import Ledger
from luthier.data.reading.feeds import read
from luthier.errors import LuthierError
from luthier.recipe import Task
from luthier.types import Example

Reader = Callable[[Task], Iterator[Example]]
_joined: list[Reader] = []


def joined(reader: Reader) -> None:
    """From now on the rows of benchmarks are read by this."""
    _joined[:] = [reader]


def scored_rows(task: Task) -> Iterator[Example]:
    """The questions of one entry of `evaluate:` with their answers, as they are, without shots. Raises LuthierError
    where they are not there."""
    if task.benchmark is None:
        yield from read(task.data, Ledger())
        return
    if not _joined:
        raise LuthierError(
            f"nobody reads the rows of the benchmark {task.benchmark.name!r} here",
            where="evaluate",
            fix="go through a verb, or join a reader in",
        )
    yield from _joined[0](task)
