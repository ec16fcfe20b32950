"""Which examples train, in what shares, and which are held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HASHES = 2**64


def held_out(hashes: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Which rows to hold out, by the hash of their content: never by their order, and equal rows together.

    At least one row, where there are two different ones.
    """
    if share <= 0:
        return np.zeros(len(hashes), np.bool_)
    chosen = hashes < np.uint64(min(int(share * HASHES), HASHES - 1))
    if not chosen.any() and len(np.unique(hashes)) > 1:
        chosen = hashes == hashes.min()
    return chosen


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """`total` divided in the proportion of the weights, each share exact to one row (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    short = total - sum(counts)
    for i in sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))[:short]:
        counts[i] += 1
    return counts


def drawn(rows: NDArray[np.int64], count: int, seed: int, feed: int) -> NDArray[np.int64]:
    """`count` of the rows: all of them as often as they fit, the rest drawn without repetition. In order."""
    whole, rest = divmod(count, len(rows))
    rng = np.random.default_rng([seed, feed])
    extra = rng.choice(rows, rest, replace=False) if rest else rows[:0]
    return np.sort(np.concatenate([np.tile(rows, whole), extra]))


def mix(
    feeds: NDArray[np.int32],
    candidates: NDArray[np.int64],
    weights: Sequence[float | None],
    samples: Sequence[int | None],
    seed: int,
) -> NDArray[np.int64]:
    """The training rows in order of source. `feeds[row]` is the source of a row of the store.

    Sources with a weight share out among themselves as many rows as they have together; a small one repeats rows,
    a large one leaves some out. Sources without a weight come once, or with as many rows as `samples` says.
    """
    of = [candidates[feeds[candidates] == feed] for feed in range(len(weights))]
    weighted = [feed for feed, weight in enumerate(weights) if weight is not None and len(of[feed])]
    wanted = {feed: count for feed, count in enumerate(samples) if count is not None and len(of[feed])}
    if weighted:
        total = sum(len(of[feed]) for feed in weighted)
        wanted |= dict(zip(weighted, shares(total, [weights[feed] or 0.0 for feed in weighted]), strict=True))
    parts = [drawn(rows, wanted[feed], seed, feed) if feed in wanted else rows for feed, rows in enumerate(of)]
    return np.concatenate([np.empty(0, np.int64), *parts])
