"""So many rows, drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from luthier.data.steps.step import Columns, Reread, SetStep, Verdicts
from luthier.data.steps.tools import Tools, draws
from luthier.types import Example


@dataclass(frozen=True)
class Sample(SetStep):
    """Keeps so many rows, drawn by what they say and the recipe's seed; they stay in order."""

    decides: ClassVar[tuple[str, ...]] = ("n",)
    remembers: ClassVar[bool] = False
    drops_much: ClassVar[bool] = True

    n: Annotated[int, Field(gt=0)]
    """How many; all where there are no more."""

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        return {}

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        keep = np.zeros(len(rows), np.bool_)
        keep[np.argsort(draws(rows.keys, seed, "sample"), kind="stable")[: self.n]] = True
        return Verdicts(keep, (f"it was not drawn (sample: {self.n:,})",))
