"""Each system's score with its interval, and how the later ones differ from the first: which way of being sure fits.

| scores | value | difference to the first system |
|---|---|---|
| right or wrong (all 0 or 1) | Wilson's interval | Tango's, and McNemar's exact test |
| graded, their mean is the value | resampled rows | resampled differences, and flipped signs |
| sums over the corpus (BLEU, perplexity) | resampled rows | resampled pairs of rows |

Rows of one cluster are no independent witnesses: resampling draws clusters, and rates count as many rows as theirs are
worth (Kish's design effect).

Shape suffixes: N = rows, C = clusters, K = statistics of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from luthier.evaluate.intervals.bootstrap import flipped, interval, of_mean, resampled
from luthier.evaluate.intervals.rates import Estimate, mcnemar, paired, wilson
from luthier.scorers.metric import Metric

Floats = NDArray[np.float64]
Estimates = dict[str, Estimate]


def estimates(
    metric: Metric, statistics: Mapping[str, Floats], seed: int, clusters: Sequence[int] | None = None
) -> tuple[Estimates, Estimates]:
    """Each system's value, and each later system's difference to the first, with 95 % intervals.

    `statistics`: for each system (N, K), the same rows in the same order, at least one; `clusters`: the number of each
    row's cluster (none: each row is one). A difference is paired: what makes a row hard for both does not widen its
    interval.
    """
    baseline, *others = statistics
    rows = len(statistics[baseline])
    _, cluster_N = np.unique(np.arange(rows) if clusters is None else np.asarray(clusters), return_inverse=True)
    values = {name: float(metric.pooled(rows_NK.sum(axis=0)[None])[0]) for name, rows_NK in statistics.items()}
    if cluster_N.max() < 1:
        alone = {name: Estimate(value) for name, value in values.items()}
        return alone, {name: Estimate(values[name] - values[baseline]) for name in others}
    if not all(_is_mean(metric, rows_NK) for rows_NK in statistics.values()):
        return _corpus(metric, values, {name: _sums(rows, cluster_N) for name, rows in statistics.items()}, seed)
    scores = {name: rows_NK[:, 0] for name, rows_NK in statistics.items()}
    alone = {name: _mean(metric.range, scores_N, cluster_N, seed) for name, scores_N in scores.items()}
    differences = {name: _paired(metric.range, scores[baseline], scores[name], cluster_N, seed) for name in others}
    return alone, differences


def _is_mean(metric: Metric, rows_NK: Floats) -> bool:
    """Is the corpus value the mean of a score of each row?"""
    plain = type(metric).pooled is Metric.pooled and rows_NK.shape[1] == 2
    return plain and bool((rows_NK[:, 1] == 1).all())


def _mean(ends: tuple[float, float], scores_N: Floats, cluster_N: NDArray[np.intp], seed: int) -> Estimate:
    if _right_or_wrong(scores_N):
        share = float(scores_N.mean())
        n = _worth(scores_N, cluster_N)
        return Estimate(share, *wilson(share * n, n))
    sums_CK = _sums(np.stack([scores_N, np.ones_like(scores_N)], 1), cluster_N)
    return of_mean(sums_CK[:, 0], sums_CK[:, 1], ends, seed)


def _paired(
    ends: tuple[float, float], first_N: Floats, later_N: Floats, cluster_N: NDArray[np.intp], seed: int
) -> Estimate:
    difference_N = later_N - first_N
    better, worse = int((difference_N > 0).sum()), int((difference_N < 0).sum())
    sums_CK = _sums(np.stack([difference_N, np.ones_like(difference_N)], 1), cluster_N)
    alone = len(sums_CK) == len(difference_N)
    if _right_or_wrong(first_N) and _right_or_wrong(later_N):
        n = _worth(difference_N, cluster_N)
        part = n / len(difference_N)
        found = Estimate(float(difference_N.mean()), *paired(better * part, worse * part, n))
        p = mcnemar(better, worse) if alone else flipped(sums_CK[:, 0], seed)
    else:
        most = ends[1] - ends[0]
        found = of_mean(sums_CK[:, 0], sums_CK[:, 1], (-most, most), seed)
        p = flipped(sums_CK[:, 0], seed)
    return replace(found, better=better, worse=worse, p=p)


def _corpus(
    metric: Metric, values: Mapping[str, float], sums: Mapping[str, Floats], seed: int
) -> tuple[Estimates, Estimates]:
    """All systems share the resamples."""
    baseline, *others = sums
    clusters = len(sums[baseline])
    drawn = {name: resampled(clusters, seed, partial(_pooled, metric, own)) for name, own in sums.items()}
    alone = {name: interval(values[name], drawn[name], clusters) for name in sums}
    differences = {
        name: interval(values[name] - values[baseline], drawn[name] - drawn[baseline], clusters) for name in others
    }
    return alone, differences


def _pooled(metric: Metric, sums_CK: Floats, counts_RC: Floats) -> Floats:
    return metric.pooled(counts_RC @ sums_CK)


def _right_or_wrong(scores_N: Floats) -> bool:
    return bool(((scores_N == 0) | (scores_N == 1)).all())


def _sums(rows_NK: Floats, cluster_N: NDArray[np.intp]) -> Floats:
    """What the rows of each cluster add to the sums."""
    sums_CK = np.zeros((int(cluster_N.max()) + 1, rows_NK.shape[1]))
    np.add.at(sums_CK, cluster_N, rows_NK)
    return sums_CK


def _worth(scores_N: Floats, cluster_N: NDArray[np.intp]) -> float:
    """How many independent rows these are worth for their mean: as many as there are, over the design effect, which is
    the variance by clusters over that by rows. Where the scores do not vary at all: the clusters."""
    rows, clusters = len(scores_N), int(cluster_N.max()) + 1
    off_N = scores_N - scores_N.mean()
    by_rows = float((off_N**2).sum())
    if rows == clusters or by_rows == 0:
        return float(clusters)
    by_clusters = float((_sums(off_N[:, None], cluster_N) ** 2).sum()) * clusters / (clusters - 1)
    return rows / max(1.0, by_clusters / by_rows)
