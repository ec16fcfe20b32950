"""The best rows by a number, or those between two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from luthier.data.steps.columns import there
from luthier.data.steps.measures import Measure, named
from luthier.data.steps.step import Columns, Reread, SetStep, Verdicts
from luthier.data.steps.tools import Tools, draws
from luthier.data.tally import number
from luthier.errors import LuthierError
from luthier.types import Example

By = str | dict[str, Any]
Combine = Literal["rank", "product"]


class Measured(SetStep):
    """A step that goes by what its key `by` measures."""

    opened: ClassVar[tuple[Measure, ...]] = ()
    """The measures as they go to work."""
    by: Any

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """What is measured, in order."""
        return measures_of(self.by)

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """What its measures want."""
        return frozenset().union(*(one.wants for one in self.opened or self.measures))

    @property
    def reads(self) -> frozenset[str]:
        """Those of its measures."""
        return frozenset().union(*(one.reads for one in self.measures))

    def identity(self) -> Any:
        return [[one.version, one.identity()] for one in self.opened or self.measures]

    def ready(self, tools: Tools) -> Self:
        return self.holding(opened=tuple(one.ready(tools) for one in self.opened or self.measures))

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        return {f"m{number}": one.measure(batch, tools) for number, one in enumerate(self.opened or self.measures)}


@dataclass(frozen=True)
class Select(Measured):
    """Keeps rows by what they measure: the best share, so many, or those between two numbers. What was measured once is
    kept, so that other thresholds cost nothing."""

    decides: ClassVar[tuple[str, ...]] = ("keep", "top", "min", "max", "best", "combine", "unknown")
    version: ClassVar[int] = 2

    by: By | tuple[By, ...]
    """What is measured: length, words, tokens, type_token, {frequency: FILES}, {column: stars}, perplexity, ifd,
    superfilter, {taught: FILE}, {less: FILE}, or any scorer ({reward_model: runs/judge}); or a list."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """This share of the rows."""
    top: Annotated[int, Field(gt=0)] | None = None
    """So many rows."""
    min: float | None = None
    """Rows that measure at least so much."""
    max: float | None = None
    """Rows that measure at most so much."""
    best: Literal["high", "low"] = "high"
    """Which are the best: those that measure much, or little. Of those that measure the same, some are drawn by what
    they say and the recipe's seed."""
    combine: Combine = "rank"
    """Of several measures: the mean of their ranks (0 to 1), or their product."""
    unknown: Literal["drop", "keep"] = "drop"
    """What becomes of rows that cannot be measured."""

    def __post_init__(self) -> None:
        if all(given is None for given in (self.keep, self.top, self.min, self.max)):
            raise ValueError("nothing says how many rows to keep: give keep, top, min or max")
        if self.keep is not None and self.top is not None:
            raise ValueError(
                f"keep ({self.keep:g}) and top ({self.top:,}) both say how many rows stay: give one of them"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is more than max ({self.max:g}): no row could measure both")

    @property
    def drops_much(self) -> bool:  # type: ignore[override]
        """Does it know how many rows stay? Of a bound nobody knows how many it drops."""
        return self.keep is not None or self.top is not None

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        measured = [np.asarray(columns[f"m{number}"], np.float64) for number in range(len(self.measures))]
        values = combined(measured, self.combine)
        known = ~np.isnan(values)
        if self.unknown == "drop" and not known.any():
            raise self._unmeasured(measured, rows)
        inside = known & (values >= (-np.inf if self.min is None else self.min))
        inside &= values <= (np.inf if self.max is None else self.max)
        if self.max is None:
            for one, column in zip(self.measures, measured, strict=True):
                inside &= ~(column > (np.inf if one.most is None else one.most))
        keep = inside.copy()
        count = share(self.keep, self.top, int(known.sum()))
        if count is not None and count < int(inside.sum()):
            places = np.flatnonzero(inside)
            best = values[places] if self.best == "low" else -values[places]
            order = np.lexsort((draws(rows.keys, seed, "select")[places], best))  # alike by chance, not by place
            keep = np.zeros(len(values), np.bool_)
            keep[places[order[:count]]] = True
        why = np.where(known, np.where(inside, 1, 0), 2)
        if self.unknown == "keep":
            keep |= ~known
        reasons = ("it measures too much or too little", "others measure better", "it cannot be measured")
        return Verdicts(keep, reasons, why, values)

    def _unmeasured(self, measured: Sequence[NDArray[np.float64]], rows: Reread) -> LuthierError:
        """No row has a number: what is asked for is not there, or not under this name."""
        given = self.by if isinstance(self.by, tuple) else (self.by,)
        empty = [one for one, column in zip(given, measured, strict=True) if np.isnan(column).all()]
        told = " or ".join(json.dumps(one, ensure_ascii=False) for one in empty or given)
        fix = f"name what the rows have as a number: {there(rows)}"
        return LuthierError(f"none of {number(len(measured[0]))} can be measured by {told}", fix=fix)


def measures_of(by: By | tuple[By, ...] | None) -> tuple[Measure, ...]:
    """The measures that a recipe names, in order."""
    return () if by is None else tuple(named(one) for one in (by if isinstance(by, tuple) else (by,)))


def combined(measured: Sequence[NDArray[np.float64]], combine: Combine) -> NDArray[np.float64]:
    """One number for each row; NaN where one of its measures is."""
    if len(measured) == 1:
        return np.asarray(measured[0], np.float64)
    if combine == "product":
        return np.prod(np.stack(measured), axis=0)
    ranks: NDArray[np.float64] = np.mean([_ranks(one) for one in measured], axis=0)
    return ranks


def share(keep: float | None, top: int | None, rows: int) -> int | None:
    """How many rows are wanted: never none of some. None: all."""
    part = None if keep is None else max(1, int(keep * rows)) if rows else 0
    return min((n for n in (top, part) if n is not None), default=None)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of known values below each, equal ones alike; NaN stays."""
    known = np.sort(values[~np.isnan(values)])
    ranks = np.searchsorted(known, values, "left") / max(len(known) - 1, 1)
    return np.where(np.isnan(values), np.nan, ranks)


__all__ = ["By", "Combine", "Select", "combined", "measures_of", "share"]
