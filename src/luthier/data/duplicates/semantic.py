"""Semantic duplicates: rows whose embeddings point the same way.

A row stays unless the cosine between its embedding and that of a row that stays already reaches the threshold; rows are
taken in the order of a rule (keeping.py). So each dropped row has a witness.

All rows are compared with all kept ones, block by block, so work grows with the square. With `clusters`, only rows are
compared that have one of their `NEAREST` nearest centres in common: a duplicate may then be missed, none is invented.

Shapes: N rows, D numbers of an embedding, K centres, B rows of a block, S rows of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates import units
from luthier.data.duplicates.keeping import Decision, Rows
from luthier.errors import LuthierError

BLOCK = 1024
KEPT = 16_384
"""Kept rows that a block is compared with at a time."""
NEAREST = 2
ROUNDS = 10
"""Of moving the centres."""
SAMPLE = 64
"""Rows a centre that centres are found on."""
ROUNDING = 1e-6
"""Equal embeddings have a cosine of nearly 1."""

Vectors = NDArray[np.float32]


def decide(
    embeddings: Vectors,
    threshold: float,
    order: Rows,
    clusters: int | None = None,
    apart: NDArray[np.uint64] | None = None,
) -> Decision:
    """Which rows stay. `embeddings` (N, D) may be mapped from a file; they need not have length 1. `order` names the
    rows to be compared, the one that would rather stay first; others stay. `apart`: rows in which this differs are no
    duplicates, however alike their embeddings are.

    Raises LuthierError, naming the row, for one that is zero or not finite: it has no direction.
    """
    vectors = _Directions(embeddings, order)
    apart_N = np.zeros(len(embeddings), np.uint64) if apart is None else apart
    of_N = vectors.nearest(clusters) if clusters and clusters > 1 else np.zeros((len(embeddings), 1), np.int64)
    decision = Decision(np.full(len(embeddings), -1, np.int64), np.zeros(len(embeddings), np.float32))
    kept: dict[int, list[Rows]] = {}
    for first in range(0, len(order), BLOCK):
        rows_B = order[first : first + BLOCK]
        block = _Block(rows_B, vectors.of(rows_B), apart_N)
        for centre in np.unique(of_N[rows_B]).tolist():
            inside = np.flatnonzero((of_N[rows_B] == centre).any(axis=1))
            block.against_kept(inside, kept.get(centre, []), vectors)
            block.against_itself(inside, threshold)
        stay_B = block.settled(threshold)
        for centre in np.unique(of_N[rows_B[stay_B]]).tolist():
            kept.setdefault(centre, []).append(rows_B[stay_B & (of_N[rows_B] == centre).any(axis=1)])
        dropped = rows_B[~stay_B]
        decision.witness[dropped] = block.witness_B[~stay_B]
        decision.similarity[dropped] = np.minimum(block.alike_B[~stay_B], 1)
    return decision


class _Directions:
    """Embeddings scaled to length 1, a few rows at a time."""

    def __init__(self, embeddings: Vectors, order: Rows) -> None:
        self._embeddings = embeddings
        self._lengths_N = np.empty(len(embeddings), np.float32)
        asked_N = np.zeros(len(embeddings), np.bool_)
        asked_N[order] = True
        for first in range(0, len(embeddings), KEPT):
            lengths = np.linalg.norm(embeddings[first : first + KEPT].astype(np.float32), axis=1)
            fine = np.isfinite(lengths) & (lengths > 0)
            bad = np.flatnonzero(~fine & asked_N[first : first + KEPT])
            if len(bad):
                raise LuthierError(
                    f"the embedding of row {first + int(bad[0]) + 1} is zero or not finite, and so like no other",
                    where="dedup: semantic",
                    fix="drop rows without text before this step, or take another model for the embeddings",
                )
            self._lengths_N[first : first + KEPT] = np.where(fine, lengths, 1.0)

    def of(self, rows: Rows) -> Vectors:
        return self._embeddings[rows].astype(np.float32) / self._lengths_N[rows, None]

    def nearest(self, clusters: int) -> Rows:
        """The numbers of the centres nearest to each row."""
        centres_KD = self._centres(clusters)
        nearest = min(NEAREST, len(centres_KD))
        of_N = np.empty((len(self._embeddings), nearest), np.int64)
        for first in range(0, len(of_N), KEPT):
            rows = np.arange(first, min(first + KEPT, len(of_N)))
            alike = self.of(rows) @ centres_KD.T
            of_N[rows] = np.argpartition(-alike, nearest - 1, axis=1)[:, :nearest]
        return of_N

    def _centres(self, clusters: int) -> Vectors:
        """Spherical k-means on a sample that is drawn by content: where a row stands has no part in it."""
        weights_D = units.constants(self._embeddings.shape[1], salt=17)
        drawn_N = np.empty(len(self._embeddings), np.uint64)
        for first in range(0, len(drawn_N), KEPT):
            bits = np.ascontiguousarray(self._embeddings[first : first + KEPT], np.float32).view(np.uint32)
            drawn_N[first : first + KEPT] = units.mixed((bits * weights_D).sum(axis=1, dtype=np.uint64))
        sample_SD = self.of(np.argsort(drawn_N, kind="stable")[: clusters * SAMPLE])
        centres_KD = sample_SD[:clusters].copy()
        for _ in range(ROUNDS):
            of_S = np.concatenate([(part @ centres_KD.T).argmax(axis=1) for part in _parts(sample_SD)])
            sums_KD = np.zeros_like(centres_KD)
            np.add.at(sums_KD, of_S, sample_SD)
            lengths_K = np.linalg.norm(sums_KD, axis=1, keepdims=True)
            centres_KD = np.where(lengths_K > 0, sums_KD / np.maximum(lengths_K, 1e-30), centres_KD)
        return centres_KD


def _parts(vectors: Vectors) -> list[Vectors]:
    return [vectors[first : first + KEPT] for first in range(0, len(vectors), KEPT)]


@dataclass
class _Block:
    """Rows that are decided together: the row most like each that stays, and which are alike among themselves."""

    rows_B: Rows
    vectors_BD: Vectors
    apart_N: NDArray[np.uint64]
    alike_B: Vectors = field(init=False)
    witness_B: Rows = field(init=False)
    edges: dict[tuple[int, int], float] = field(default_factory=dict)
    """(a later row, an earlier one) of the block that are alike."""

    def __post_init__(self) -> None:
        self.alike_B = np.full(len(self.rows_B), -1, np.float32)
        self.witness_B = np.full(len(self.rows_B), -1, np.int64)

    def against_kept(self, inside: Rows, kept: list[Rows], vectors: _Directions) -> None:
        rows = np.concatenate(kept) if kept else np.empty(0, np.int64)
        for first in range(0, len(rows), KEPT):
            part = rows[first : first + KEPT]
            alike = self.vectors_BD[inside] @ vectors.of(part).T
            alike[self.apart_N[self.rows_B[inside]][:, None] != self.apart_N[part]] = -1
            best = alike.argmax(axis=1)
            highest = alike[np.arange(len(inside)), best]
            better = highest > self.alike_B[inside]
            self.alike_B[inside[better]] = highest[better]
            self.witness_B[inside[better]] = part[best[better]]

    def against_itself(self, inside: Rows, threshold: float) -> None:
        alike = np.tril(self.vectors_BD[inside] @ self.vectors_BD[inside].T, -1)
        own = self.apart_N[self.rows_B[inside]]
        alike[own[:, None] != own] = -1
        for later, earlier in zip(*np.nonzero(alike >= threshold - ROUNDING), strict=True):
            self.edges[int(inside[later]), int(inside[earlier])] = float(alike[later, earlier])

    def settled(self, threshold: float) -> NDArray[np.bool_]:
        """Which rows of the block stay."""
        stay_B = self.alike_B < threshold - ROUNDING
        for (later, earlier), alike in sorted(self.edges.items()):
            if stay_B[earlier] and alike > self.alike_B[later]:
                self.alike_B[later], self.witness_B[later] = alike, self.rows_B[earlier]
                stay_B[later] = False
        return stay_B


__all__ = ["decide"]
