"""How alike rows are, counted and not estimated: shingles in common over shingles in all (Jaccard), of the whole row
and of its answers; the less alike of the two counts.

The shingles of the rows to be compared lie in a file without a name, so that memory does not grow with them.

Shapes: Q pairs, H shingles of a chunk of pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates import shingles, units
from luthier.data.duplicates.keeping import Rows
from luthier.data.duplicates.shingles import Text

Reread = Callable[[Rows], Sequence[Text]]
"""The texts of rows that are asked for by their numbers, rising."""
ASKED = 2048
"""Rows that are read again at a time."""
HELD = 1 << 19
"""Shingles of pairs that are compared at a time."""


class Compared:
    """The shingles of some rows, to compare any two of them. `rows` rise. A context manager: the file goes with it."""

    def __init__(self, rows: Rows, reread: Reread) -> None:
        self._rows = rows
        self._starts = np.zeros(len(rows) + 1, np.int64)
        self._answers = np.zeros(len(rows), np.int32)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._sets = np.empty(0, np.uint32)
        for first in range(0, len(rows), ASKED):
            texts = reread(rows[first : first + ASKED])
            for part in units.batches([text.size for text in texts]):
                self._write(shingles.of(texts[part]), first + part.start)
        np.cumsum(self._starts, out=self._starts)
        if self._starts[-1]:
            self._file.flush()
            self._sets = np.memmap(self._file, np.uint32, "r")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sets = np.empty(0, np.uint32)
        self._file.close()

    def _write(self, made: shingles.Shingles, first: int) -> None:
        """Each row's shingles once, in order."""
        count = len(made.numbers)
        row_H = np.repeat(np.arange(count, dtype=np.uint64), np.diff(made.starts))
        once = np.unique(row_H << np.uint64(32) | made.hashes)
        row_H = (once >> np.uint64(32)).astype(np.int64)
        own = (once & np.uint64(shingles.ANSWER)) != 0
        self._starts[first + 1 : first + 1 + count] = np.bincount(row_H, minlength=count)
        self._answers[first : first + count] = np.bincount(row_H[own], minlength=count)
        self._file.write(once.astype(np.uint32).tobytes())

    def similarities(self, a_rows: Rows, b_rows: Rows) -> NDArray[np.float32]:
        """For each pair of rows how alike they are."""
        a_Q, b_Q = np.searchsorted(self._rows, a_rows), np.searchsorted(self._rows, b_rows)
        sizes_Q = self._sizes(a_Q) + self._sizes(b_Q)
        alike_Q = np.zeros(len(a_Q), np.float32)
        for part in _chunks(sizes_Q):
            alike_Q[part] = self._chunk(a_Q[part], b_Q[part])
        return alike_Q

    def _sizes(self, at: Rows) -> Rows:
        return self._starts[at + 1] - self._starts[at]

    def _chunk(self, a_Q: Rows, b_Q: Rows) -> NDArray[np.float32]:
        both_H = np.concatenate([self._gathered(a_Q), self._gathered(b_Q)])
        both_H.sort()
        twice = both_H[1:][both_H[1:] == both_H[:-1]]
        pair = (twice >> np.uint64(32)).astype(np.int64)
        shared_Q = np.bincount(pair, minlength=len(a_Q))
        own_Q = np.bincount(pair[(twice & np.uint64(shingles.ANSWER)) != 0], minlength=len(a_Q))
        whole = shared_Q / (self._sizes(a_Q) + self._sizes(b_Q) - shared_Q)
        answers = own_Q / (self._answers[a_Q].astype(np.int64) + self._answers[b_Q] - own_Q)
        return np.minimum(whole, answers).astype(np.float32)

    def _gathered(self, rows_Q: Rows) -> NDArray[np.uint64]:
        """The shingles of the rows, each under the number of its pair."""
        sizes_Q = self._sizes(rows_Q)
        pair_H = np.repeat(np.arange(len(rows_Q)), sizes_Q)
        begins_Q = np.cumsum(sizes_Q) - sizes_Q
        at_H = np.arange(len(pair_H)) + (self._starts[rows_Q] - begins_Q)[pair_H]
        return pair_H.astype(np.uint64) << np.uint64(32) | self._sets[at_H]


def _chunks(sizes_Q: Rows) -> Iterator[slice]:
    """Runs of pairs with about HELD shingles, at least one pair in each."""
    ends = np.cumsum(sizes_Q)
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + HELD)), first + 1)
        yield slice(first, last)
        first = last
