"""How sure a graded score is: intervals by resampling rows (Efron 1979), and tests by flipping signs.

Shape suffixes: N = rows (or clusters of rows), R = resamples, K = statistics of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from luthier.evaluate.intervals.rates import Estimate, Z

RESAMPLES = 2000
_DRAWS_AT_ONCE = 4_000_000  # bounds memory to about 100 MB, however many rows there are
Floats = NDArray[np.float64]


def interval(value: float, values_R: Floats, rows: int) -> Estimate:
    """A value with the interval that holds 95 % of its resamples, reaching as much farther out as Student's interval
    of so few rows does beside the normal one (Hesterberg 2015). None where all resamples are alike."""
    share = NormalDist().cdf(-_student(rows) * math.sqrt(rows / (rows - 1)))
    low, high = np.percentile(values_R, [100 * share, 100 - 100 * share])
    return Estimate(value, float(low), float(high)) if low < high else Estimate(value)


def _student(rows: int) -> float:
    """Student's 97.5 % quantile, by the first terms of its series in 1/degrees of freedom."""
    free, z2 = max(rows - 1, 3), Z * Z
    terms = (
        (z2 + 1) / 4 / free,
        ((5 * z2 + 16) * z2 + 3) / 96 / free**2,
        (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384 / free**3,
    )
    return Z * (1 + math.fsum(terms))


def of_mean(scores_N: Floats, counts_N: Floats, ends: tuple[float, float], seed: int) -> Estimate:
    """The mean of scores that lie between two ends, N sums over so many rows each.

    Where half of them or more are the same, as good answers' are, what the few others may be is hardly in the sample:
    the interval is then also that of the sample with a row at either end more.
    """
    value, rows = float(scores_N.sum() / counts_N.sum()), len(scores_N)
    found = interval(value, _means(scores_N, counts_N, seed), rows)
    _, alike = np.unique(scores_N / counts_N, return_counts=True)
    if 2 * alike.max() < rows or not all(map(math.isfinite, ends)):
        return found
    wider = _means(np.append(scores_N, ends), np.append(counts_N, (1.0, 1.0)), seed)
    low, high = (float(end) for end in np.percentile(wider, [2.5, 97.5]))
    if found.low is not None and found.high is not None:
        low, high = min(low, found.low), max(high, found.high)
    return Estimate(value, min(low, value), max(high, value))


def _means(scores_N: Floats, counts_N: Floats, seed: int) -> Floats:
    both_NK = np.stack([scores_N, counts_N], 1)
    totals = resampled(len(scores_N), seed, lambda counts_RN: counts_RN @ both_NK)
    return np.asarray(totals[:, 0] / totals[:, 1])


def resampled(rows: int, seed: int, sums: Callable[[Floats], Floats]) -> Floats:
    """What `sums` makes of every resample, a resample being how often each row is drawn."""
    return np.concatenate([sums(counts_RN) for counts_RN in resamples(rows, seed)])


def resamples(rows: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn in each resample, in blocks of resamples."""
    generator = np.random.default_rng(seed)
    for size in _blocks(rows):
        drawn_RN = generator.integers(rows, size=(size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(drawn_RN.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def flipped(differences_N: Floats, seed: int) -> float:
    """How likely a mean difference of this size or larger is where the sign of each is chance: two-sided."""
    generator = np.random.default_rng(seed)
    moved_N = differences_N[differences_N != 0]
    if not len(moved_N):
        return 1.0
    least, as_large = abs(moved_N.sum()) * (1 - 1e-12), 0
    for size in _blocks(len(moved_N)):
        signs_RN = generator.integers(2, size=(size, len(moved_N))) * 2.0 - 1.0
        as_large += int((np.abs(signs_RN @ moved_N) >= least).sum())
    return (as_large + 1) / (RESAMPLES + 1)


def _blocks(rows: int) -> Iterator[int]:
    block = max(1, min(RESAMPLES, _DRAWS_AT_ONCE // rows))
    for start in range(0, RESAMPLES, block):
        yield min(block, RESAMPLES - start)
