"""Which of several duplicates stays, and what becomes of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """What becomes of N rows. `witness[n]` is the kept row that row n repeats, -1 where row n is kept itself."""

    witness: Rows
    similarity: NDArray[np.float32]
    """How alike the two are; 0 for a row that is kept."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which rows stay."""
        return self.witness < 0

    def clusters(self, most: int | None = None) -> list[tuple[int, Rows]]:
        """(the kept row, the rows that repeat it, most alike first), those with the most rows first."""
        dropped = np.flatnonzero(~self.kept)
        order = dropped[np.lexsort((dropped, -self.similarity[dropped], self.witness[dropped]))]
        kept, firsts, counts = np.unique(self.witness[order], return_index=True, return_counts=True)
        largest = np.lexsort((kept, -counts))[:most]
        return [(int(kept[i]), order[firsts[i] : firsts[i] + counts[i]]) for i in largest]


def first(rows: int) -> Rows:
    """An order of keeping: the row that comes first stays."""
    return np.arange(rows)


def highest(scores: NDArray[np.generic]) -> Rows:
    """An order of keeping: the row with the highest score stays, of equal ones the first; a row without one (NaN) last.

    With the rows' lengths for scores: the longest stays.
    """
    worth = np.asarray(scores, np.float64)
    return np.lexsort((np.arange(len(worth)), -np.where(np.isnan(worth), -np.inf, worth), np.isnan(worth)))
