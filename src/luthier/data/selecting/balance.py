"""As many rows of one kind as of another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.data.steps.columns import of_files, there, value
from luthier.data.steps.select import By, Combine, Measured, combined
from luthier.data.steps.step import Columns, Reread, Verdicts
from luthier.data.steps.tools import Tools, draws
from luthier.errors import LuthierError
from luthier.types import Example

LONGEST = 30
"""Characters of a class's name that are shown."""
SHOWN = 8
"""Classes that the ledger names."""


@dataclass(frozen=True)
class Balance(Measured):
    """Keeps at most so many rows of each class, drawn by what they say, or the best. `balance: answer` takes as many of
    each as the smallest class has."""

    decides: ClassVar[tuple[str, ...]] = ("most", "combine", "unknown")
    drops_much: ClassVar[bool] = True

    column: str
    """Where the class stands: a column of the rows' file, `answer` (what is answered, as where texts are sorted),
    `reward` (or the label), or what can be told of each row: language, kind, turns, file, step."""
    most: Annotated[int, Field(gt=0)] | None = None
    """Rows of each class. Default: as many as the smallest class has."""
    by: By | tuple[By, ...] | None = None
    """Which stay, as in `select`: those that measure most. Default: drawn ones."""
    combine: Combine = "rank"
    """Of several measures: the mean of their ranks, or their product."""
    unknown: Literal["drop", "keep"] = "drop"
    """What becomes of rows without a class."""

    def measure(self, batch: Sequence[Example], tools: Tools) -> Columns:
        return {**super().measure(batch, tools), "class": np.array([_class(self._of(one)) for one in batch], np.uint64)}

    @property
    def reads(self) -> frozenset[str]:
        """The class, and those of its measures."""
        return super().reads | of_files(frozenset({self.column}))

    def _of(self, example: Example) -> Any:
        return value(example, self.column)

    def decide(self, columns: Columns, rows: Reread, seed: int) -> Verdicts:
        which_N = np.asarray(columns["class"])
        worth_N = np.zeros(len(rows))
        if self.measures:
            worth_N = combined([columns[f"m{n}"] for n in range(len(self.measures))], self.combine)
        known_N = which_N != 0
        if not known_N.any():
            raise LuthierError(
                f"no row has a class in {self.column!r}",
                where="balance.column",
                fix=f"name what the rows have: {there(rows)}",
            )
        classes, first, inverse, sizes = np.unique(
            which_N[known_N], return_index=True, return_inverse=True, return_counts=True
        )
        most = self.most or (int(sizes.min()) if len(sizes) else 0)
        places = np.flatnonzero(known_N)
        chance = draws(rows.keys, seed, "balance")[places]
        worth = np.where(np.isnan(worth_N[places]), -np.inf, worth_N[places])
        order = np.lexsort((chance, -worth, inverse))  # class by class, the best in front
        starts = np.cumsum(sizes) - sizes
        within = np.arange(len(order)) - np.repeat(starts, sizes)
        keep = ~known_N if self.unknown == "keep" else np.zeros(len(rows), np.bool_)
        keep[places[order[within < most]]] = True
        reasons = (f"its class has {most:,} other rows that stay", f"it has no {self.column!r}")
        told = [
            f"{_short(self._of(rows[int(places[at])]))} {min(size, most):,} of {size:,}"
            for at, size in zip(first[:SHOWN], sizes[:SHOWN].tolist(), strict=True)
        ]
        note = f"{len(classes):,} classes: {', '.join(told)}{', …' if len(classes) > SHOWN else ''}"
        return Verdicts(keep, reasons, np.where(known_N, 0, 1), notes=(note,) if len(classes) else ())


def _short(value: Any) -> str:
    said = str(value)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def _class(value: Any) -> int:
    """A number for a class; 0 where there is none."""
    if value is None or value == "":
        return 0
    written = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(written, digest_size=8).digest(), "little") or 1


__all__ = ["Balance"]
