"""How alike rows are, counted and not estimated: shingles in common over shingles in all (Jaccard), of the whole row
and of its answers; the less alike of the two counts.

Rows are read again when they are first compared. Their shingles lie in a file without a name, so that memory does not
grow with them.

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
    """The shingles of those of `count` rows that were asked for, to compare any two of them. A context manager: the
    file goes with it."""

    def __init__(self, count: int, reread: Reread) -> None:
        self._reread = reread
        self._slot_N = np.full(count, -1, np.int32)
        """Where a row's sizes are; -1 where it has not been read."""
        self._starts = np.zeros(1, np.int64)
        self._answers = np.zeros(0, np.int32)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._sets = np.empty(0, np.uint32)

    def _read(self, rows: Rows) -> None:
        """Read those of these rows that have not been yet."""
        fresh = np.unique(rows[self._slot_N[rows] < 0])
        if not len(fresh):
            return
        self._slot_N[fresh] = np.arange(len(fresh)) + len(self._answers)
        sizes, answers = [np.diff(self._starts)], [self._answers]
        for first in range(0, len(fresh), ASKED):
            texts = self._reread(fresh[first : first + ASKED])
            for part in units.batches([text.size for text in texts]):
                of_rows, of_answers = self._written(shingles.of(texts[part]))
                sizes.append(of_rows)
                answers.append(of_answers)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
        self._answers = np.concatenate(answers)
        self._file.flush()
        self._sets = np.memmap(self._file, np.uint32, "r")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sets = np.empty(0, np.uint32)
        self._file.close()

    def _written(self, made: shingles.Shingles) -> tuple[Rows, NDArray[np.int32]]:
        """Writes each row's shingles once, in order; how many there are, and how many of answers."""
        count = len(made.numbers)
        row_H = np.repeat(np.arange(count, dtype=np.uint64), np.diff(made.starts))
        once = np.unique(row_H << np.uint64(32) | made.hashes)
        row_H = (once >> np.uint64(32)).astype(np.int64)
        own = (once & np.uint64(shingles.ANSWER)) != 0
        self._file.write(once.astype(np.uint32).tobytes())
        return np.bincount(row_H, minlength=count), np.bincount(row_H[own], minlength=count).astype(np.int32)

    def similarities(self, a_rows: Rows, b_rows: Rows) -> NDArray[np.float32]:
        """For each pair of rows how alike they are."""
        self._read(np.concatenate([a_rows, b_rows]))
        a_Q, b_Q = self._slot_N[a_rows].astype(np.int64), self._slot_N[b_rows].astype(np.int64)
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
