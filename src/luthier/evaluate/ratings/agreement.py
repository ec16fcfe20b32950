"""How far two who judged the same agree, and how much of that chance alone would give (Cohen 1960)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from luthier.evaluate.intervals.bootstrap import interval, resampled
from luthier.evaluate.intervals.rates import Estimate, wilson


@dataclass(frozen=True)
class Agreement:
    """Two raters over the rows that both judged."""

    rows: int
    same: Estimate
    """The share of rows on which they said the same, with Wilson's interval."""
    kappa: Estimate | None
    """Cohen's κ: 0 is chance, 1 always the same. None where both said one thing throughout: chance explains all."""


def kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's κ of two raters' labels, row by row; None where it is not defined."""
    n = len(one)
    if not n:
        return None
    seen = sum(a == b for a, b in zip(one, other, strict=True)) / n
    first, second = Counter(one), Counter(other)
    chance = sum(count * second[label] for label, count in first.items()) / n**2
    return None if chance >= 1 else (seen - chance) / (1 - chance)


def agreement(one: Mapping[str, Hashable], other: Mapping[str, Hashable], seed: int = 0) -> Agreement | None:
    """Labels of two raters by row. None where no row was judged by both."""
    both = [row for row in one if row in other]
    if not both:
        return None
    first, second = [one[row] for row in both], [other[row] for row in both]
    n = len(both)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    value = kappa(first, second)
    return Agreement(
        n, Estimate(same / n, *wilson(same, n)), None if value is None else _sure(value, first, second, seed)
    )


def _sure(value: float, one: Sequence[Hashable], other: Sequence[Hashable], seed: int) -> Estimate:
    """κ with its interval over resampled rows."""
    n, labels = len(one), {label: place for place, label in enumerate(dict.fromkeys([*one, *other]))}
    if n < 3:
        return Estimate(value)
    size = len(labels)
    cells_NK = np.zeros((n, size * size))
    cells_NK[np.arange(n), [labels[a] * size + labels[b] for a, b in zip(one, other, strict=True)]] = 1
    drawn_RK = resampled(n, seed, lambda counts_RN: counts_RN @ cells_NK).reshape(-1, size, size) / n
    seen = np.trace(drawn_RK, axis1=1, axis2=2)
    chance = (drawn_RK.sum(2) * drawn_RK.sum(1)).sum(1)
    defined = chance < 1 - 1e-12
    if defined.mean() < 0.9:
        return Estimate(value)
    return interval(value, (seen[defined] - chance[defined]) / (1 - chance[defined]), n)


def pairwise(raters: Mapping[str, Mapping[str, Hashable]], seed: int = 0) -> dict[tuple[str, str], Agreement]:
    """Each two raters that share a row."""
    found = {}
    for one, other in combinations(sorted(raters), 2):
        shared = agreement(raters[one], raters[other], seed)
        if shared is not None:
            found[one, other] = shared
    return found
