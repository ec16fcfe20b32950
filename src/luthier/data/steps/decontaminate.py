"""Rows that hold what the model will be tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import BeforeValidator, Field

from luthier.data.duplicates.contamination import Index, Item, Leaks
from luthier.data.duplicates.rows import digest, item_of, text_of
from luthier.data.steps.step import Columns, Reread, SetStep, Verdicts
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.types import Example

EVALUATE = "evaluate"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Decontaminate(SetStep):
    """Leaves out rows that hold a test item: 13 words of its question one after the other, however spaced and written;
    of a shorter question the whole, with its answer. `decontaminate: evaluate`: what the recipe is scored on."""

    decides: ClassVar[tuple[str, ...]] = ("drop", "at_most")
    version: ClassVar[int] = 2
    index: ClassVar[Index | None] = None
    known: ClassVar[str | None] = None

    against: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] = (EVALUATE,)
    """evaluate (all rows that the recipe is scored on), and files of rows."""
    drop: bool = True
    """Leave the rows out; false: only count them."""
    at_most: Annotated[float, Field(ge=0, le=1)] | None = None
    """If a larger share of the test items than this stands in the rows, it is an error. Default: it never is."""

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """The rows to compare with, until it has them."""
        return frozenset() if self.index is not None else frozenset({"rows"})

    def identity(self) -> Any:
        return self.known

    def ready(self, tools: Tools) -> Self:
        if self.index is not None:
            return self
        items: list[Item] = []
        for name in self.against:
            before = len(items)
            items += map(item_of, _rows(name, tools))
            if len(items) == before:
                why = "the recipe has no `evaluate:`" if name == EVALUATE else f"{name} has no rows"
                others = [one for one in self.against if one != EVALUATE] or ["test.jsonl"]
                raise LuthierError(
                    f"there are no test items to look for: {why}",
                    fix=f"write one, or name files alone: `decontaminate: {{against: [{', '.join(others)}]}}`",
                )
        return self.holding(index=Index(items), known=digest(items))

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        held = np.zeros(len(batch), np.bool_)
        held[[hit.row for hit in self._index.search([text_of(example) for example in batch])]] = True
        return {"held": held}

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        held = np.asarray(columns["held"], np.bool_)
        leaks, told = Leaks(self._index, rows=len(held)), {}
        for row in np.flatnonzero(held).tolist():
            hits = self._index.search([text_of(rows[row])])
            leaks.add([str(rows.source(row))], hits)
            names = [self._index.items[hit.item].name for hit in hits]
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            told[row] = f"{names[0]}{more}: {hits[0].text}"
        if self.at_most is not None:
            leaks.check(self.at_most)
        keep = ~held if self.drop else np.ones(len(held), np.bool_)
        return Verdicts(keep, ("it holds a test item",), told=told if self.drop else {}, notes=leaks.lines())

    @property
    def _index(self) -> Index:
        assert self.index is not None, "a step is made ready before it measures"
        return self.index


def _rows(name: str, tools: Tools) -> Iterator[Example]:
    if name == EVALUATE:
        return tools.rows(EVALUATE)
    from luthier.data.reading.feeds import read

    return read(name)
