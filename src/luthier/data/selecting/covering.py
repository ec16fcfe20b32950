"""Rows that stand for all others: which of N vectors of length 1 to take, so that little is said twice.

Shape suffixes: N = rows, D = places of a vector, P = rows that are to be stood for.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POINTS = 2048
"""Rows that facility location looks after: of more, so many drawn by chance."""

Vectors = NDArray[np.float32]


def centres(vectors_ND: Vectors, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """k-centre greedy (Gonzalez 1985; arXiv:1708.00489): the row nearest to the mean, then always the one farthest
    from all that were taken. No row is then more than twice as far from one that was taken as in the best choice.

    Returns the rows in the order in which they were taken, and how far (1 - cosine) each was from those before.
    """
    first = int(np.argmax(vectors_ND @ vectors_ND.mean(0)))
    taken, gaps = [first], [1.0]
    far_N = 1.0 - vectors_ND @ vectors_ND[first]
    far_N[first] = -np.inf
    while len(taken) < min(count, len(vectors_ND)):
        best = int(np.argmax(far_N))
        taken.append(best)
        gaps.append(float(far_N[best]))
        np.minimum(far_N, 1.0 - vectors_ND @ vectors_ND[best], out=far_N)
        far_N[best] = -np.inf
    return np.array(taken), np.array(gaps)


def facilities(
    vectors_ND: Vectors, count: int, points: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Facility location by lazy greedy: rows so that the sum over `points` of the highest cosine to one that was taken
    (0 at least) is large; at least 1 - 1/e of the best choice's.

    Returns the rows in the order in which they were taken, and what each added for a point.
    """
    alike_NP = np.maximum(vectors_ND @ vectors_ND[points].T, 0.0)
    covered_P = np.zeros(len(points), np.float32)
    heap = [(-float(gain), row) for row, gain in enumerate(alike_NP.sum(1, dtype=np.float64))]
    heapq.heapify(heap)
    taken: list[int] = []
    gains: list[float] = []
    while heap and len(taken) < count:
        _, row = heapq.heappop(heap)  # a gain only ever falls: whoever is still first with its gain of now is the best
        gain = float(np.maximum(alike_NP[row] - covered_P, 0.0).sum(dtype=np.float64))
        if heap and (-gain, row) > heap[0]:
            heapq.heappush(heap, (-gain, row))
            continue
        taken.append(row)
        gains.append(gain / len(points))
        np.maximum(covered_P, alike_NP[row], out=covered_P)
    return np.array(taken), np.array(gains)


def score_first(
    vectors_ND: Vectors, order: Sequence[int] | NDArray[np.int64], count: int, near: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """DEITA's way (arXiv:2312.15685): the best first, each unless its cosine to one that was taken is `near` or more.

    Returns the rows that are taken, and for every row the highest cosine that it was left out for (NaN where it was
    not) and whom it is like (-1).
    """
    likeness_N, witness_N = np.full(len(vectors_ND), np.nan), np.full(len(vectors_ND), -1, np.int64)
    taken = np.empty(min(count, len(vectors_ND)), np.int64)
    held_KD = np.empty((len(taken), vectors_ND.shape[1]), np.float32)
    number = 0
    for row in order:
        if number == len(taken):
            break
        if number:
            alike_K = held_KD[:number] @ vectors_ND[row]
            most = int(np.argmax(alike_K))
            if alike_K[most] >= near:
                likeness_N[row], witness_N[row] = float(alike_K[most]), taken[most]
                continue
        taken[number], held_KD[number] = row, vectors_ND[row]
        number += 1
    return taken[:number], likeness_N, witness_N


def clusters(vectors_ND: Vectors, count: int, rounds: int = 20) -> NDArray[np.int64]:
    """Of each row which of `count` clusters it is in: spherical k-means from k-centre greedy's rows."""
    centre_KD = vectors_ND[centres(vectors_ND, count)[0]]
    which_N = np.full(len(vectors_ND), -1)
    for _ in range(rounds):
        now_N = np.argmax(vectors_ND @ centre_KD.T, axis=1)
        if np.array_equal(now_N, which_N):
            break
        which_N = now_N
        for number in np.unique(which_N):
            mean_D = vectors_ND[which_N == number].mean(0)
            centre_KD[number] = mean_D / (np.linalg.norm(mean_D) or 1.0)
    return which_N


__all__ = ["POINTS", "centres", "clusters", "facilities", "score_first"]
