"""What a step is: rows in, rows out. One that looks at each row alone, and one that needs the whole set.

A step is a frozen dataclass whose fields are its YAML keys, registered in `STEPS`. It never sees where rows lie, how
many processes there are or what was done before: the runner counts, caches, and tells why.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from luthier.data.steps.tools import Tools
from luthier.types import Example, Source

Columns = Mapping[str, NDArray[Any]]
"""What was measured of rows: a name, and an array of numbers whose first axis is the rows."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is left out, and why."""

    reason: str
    """Short, and the same for all rows with the fault: the ledger counts by it."""
    detail: str = ""
    """What is particular to this row: a score, what it is like. Never a value that is to be hidden."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A row that passes, changed or not, or the rows that it became, and what the ledger is to count of it."""

    example: Example | tuple[Example, ...]
    notes: tuple[str, ...]
    """Words to count by, once for each time: never a value that is to be hidden."""


Outcome = Example | Dropped | tuple[Example, ...] | Noted
"""The row (the very object where nothing changed), why it goes, the rows that it became, or the row with notes."""


S = TypeVar("S")


def holding(owner: S, **things: Any) -> S:
    """A copy of a frozen dataclass that holds more than its fields."""
    made = copy.copy(owner)
    for name, value in things.items():
        object.__setattr__(made, name, value)
    return made


class Step:
    """What both kinds have in common: what a step declares of itself."""

    version: ClassVar[int] = 1
    """Raise it when the same keys give other rows: what was cached is then not found any more."""
    wants: ClassVar[frozenset[str]] = frozenset()
    """What it takes of `Tools` besides chance: engine, scorer, ask, rows. Such a step works in the first process, where
    those are; all others work in every process."""
    private: ClassVar[bool] = False
    """What it takes out of a text is written down nowhere."""
    idempotent: ClassVar[bool] = True
    """Done twice, it gives what it gives done once."""
    drops_much: ClassVar[bool] = False
    """It is told how many rows to keep, so that no share of dropped rows is a sign of a mistake."""

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the rows' files that it goes by: rows keep them as `meta`."""
        return frozenset()

    def identity(self) -> Any:
        """What its results hang on besides its keys, as JSON: versions of libraries, the content of a file, a model."""
        return None

    def ready(self, tools: Tools) -> Self:
        """The step as it goes to work, with what is to be made once and not for each row: an index, an open model.

        One without `wants` must be picklable. Raises LuthierError for whatever would be known to fail.
        """
        return self

    def holding(self, **things: Any) -> Self:
        """A copy that holds more than its keys: what `ready` makes. Declare each as a class variable."""
        return holding(self, **things)


class RowStep(Step, ABC):
    """A step that looks at each row alone."""

    @abstractmethod
    def apply(self, example: Example, tools: Tools) -> Outcome:
        """What becomes of a row."""

    def apply_all(self, batch: Sequence[Example], tools: Tools) -> Sequence[Outcome]:
        """What becomes of each of these rows, in order. Only for what is faster together: a model that is asked."""
        return [self.apply(example, tools) for example in batch]


class MakeStep(RowStep, ABC):
    """A step that makes rows: it goes through all of them in order, in the first process, may look ahead, and may have
    made enough. What it paid for is in the journal of calls, so that it is begun anew when it was stopped."""

    wants: ClassVar[frozenset[str]] = frozenset({"engine", "ask"})
    idempotent: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    """What it makes of a row hangs on the others, too."""

    @abstractmethod
    def make(self, rows: Iterator[Example], tools: Tools) -> Iterator[Outcome]:
        """What becomes of each row, in order: one outcome for each."""

    def apply(self, example: Example, tools: Tools) -> Outcome:
        (outcome,) = self.make(iter([example]), tools)
        return outcome

    def apply_all(self, batch: Sequence[Example], tools: Tools) -> Sequence[Outcome]:
        return list(self.make(iter(batch), tools))


class Reread(Protocol):
    """The rows that a set step decides on, read again from the disk one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """A row as it stands before this step."""
        ...

    def source(self, index: int) -> Source:
        """The file and line that it came from."""
        ...

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Of each row its content as 128 bits: two columns of 64."""
        ...


@dataclass(frozen=True)
class Verdicts:
    """Which rows stay, and why the others go."""

    keep: NDArray[np.bool_]
    reasons: tuple[str, ...] = ("the step says so",)
    """Why rows go, each the same for all rows with the fault."""
    why: NDArray[np.integer[Any]] | None = None
    """Of each row, which of the reasons. None: the first."""
    value: NDArray[np.floating[Any]] | None = None
    """What it was decided by: a score; beside a witness, how alike both are."""
    witness: NDArray[np.integer[Any]] | None = None
    """The row that stays in its place; -1 where there is none."""
    told: Mapping[int, str] = field(default_factory=dict)
    """What else is to be said of single rows that go."""
    notes: tuple[str, ...] = ()
    """What the ledger is to say of the whole."""


class SetStep(Step, ABC):
    """A step that needs the whole set: rows are measured one by one, then it is decided by what was measured."""

    decides: ClassVar[tuple[str, ...]] = ()
    """The keys that `measure` does not look at: thresholds. With others, nothing is measured anew."""
    remembers: ClassVar[bool] = True
    """What is measured is kept for each row by its content, so that only new rows are measured. Not worth it for what
    is measured as fast as it is looked up."""
    by_column: ClassVar[tuple[str, ...]] = ()
    """Columns of several numbers a row of which `decide` looks at one number of all rows at a time: on the disk they
    lie so."""

    @abstractmethod
    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        """Numbers of each of these rows, which hang on nothing but the row. The same columns for any batch."""

    @abstractmethod
    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        """Which rows stay. `columns`: what was measured of all rows, in order, memory-mapped; a column that is not held
        on to takes no memory."""


__all__ = [
    "Columns",
    "Dropped",
    "MakeStep",
    "Noted",
    "Outcome",
    "Reread",
    "RowStep",
    "SetStep",
    "Step",
    "Verdicts",
    "holding",
]
