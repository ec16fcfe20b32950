"""How sure a mean is: percentile intervals by resampling rows (Efron 1979), paired for the difference of two systems.

Shape suffixes: N = rows, R = resamples, K = statistics of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.scorers.metric import Metric

RESAMPLES = 2000
_DRAWS_AT_ONCE = 4_000_000  # bounds memory to about 100 MB, however many rows there are


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; no interval from fewer than two rows."""

    value: float
    low: float | None = None
    high: float | None = None


def estimates(
    metric: Metric, statistics: dict[str, NDArray[np.float64]], seed: int
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Each system's value, and each later system's difference to the first, with 95 % intervals.

    `statistics`: for each system (N, K), the same rows in the same order. All systems share the resamples, so a
    difference is paired: what makes a row hard for both does not widen its interval. At least one row is needed.
    """
    values = {name: float(metric.pooled(rows_NK.sum(axis=0)[None])[0]) for name, rows_NK in statistics.items()}
    baseline, *others = statistics
    rows = len(statistics[baseline])
    if rows < 2:
        alone = {name: Estimate(value) for name, value in values.items()}
        return alone, {name: Estimate(values[name] - values[baseline]) for name in others}
    resampled: dict[str, list[NDArray[np.float64]]] = {name: [] for name in statistics}
    for counts_RN in resamples(rows, seed):
        for name, rows_NK in statistics.items():
            resampled[name].append(metric.pooled(counts_RN @ rows_NK))
    values_R = {name: np.concatenate(blocks) for name, blocks in resampled.items()}
    alone = {name: interval(values[name], values_R[name]) for name in statistics}
    paired = {name: interval(values[name] - values[baseline], values_R[name] - values_R[baseline]) for name in others}
    return alone, paired


def interval(value: float, values_R: NDArray[np.float64]) -> Estimate:
    """A value with the interval that holds 95 % of its resamples."""
    low, high = np.percentile(values_R, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def resamples(rows: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each row is drawn in each resample, in blocks of resamples."""
    generator = np.random.default_rng(seed)
    block = max(1, min(RESAMPLES, _DRAWS_AT_ONCE // rows))
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        drawn_RN = generator.integers(rows, size=(size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(drawn_RN.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)
