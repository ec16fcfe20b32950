"""The win rate that would be left if both answers were as long: judges like length.

logit P(win) = a + b·tanh(Δ/σ), Δ being how much longer the answer is and σ the spread of Δ. What is left at Δ = 0 is
σ(a). `b` is held by a ridge, `a` by nothing, so answers of equal length give the raw rate to the last digit.

Shape suffixes: N = rows, R = resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.evaluate.intervals.bootstrap import interval, resampled
from luthier.evaluate.intervals.rates import Estimate
from luthier.evaluate.ratings.logistic import fitted, sigmoid

Floats = NDArray[np.float64]
RIDGE = 0.1


@dataclass(frozen=True)
class Controlled:
    """The win rate at equal lengths, and how much length counts."""

    rate: Estimate
    slope: Estimate
    """b: above 0 the judge likes the longer one."""
    spread: float
    """σ, in characters."""
    one_sided: bool = False
    """Is the same one longer in nine rows of ten or more? Then length cannot be told from quality."""


def controlled(won_N: Floats, longer_N: Floats, seed: int = 0) -> Controlled:
    """`won_N`: 1, 0, or ½ for a tie; `longer_N`: so many characters the answer is longer than the other. Raises
    LuthierError where there is no row."""
    if not len(won_N):
        raise LuthierError("no row was judged, so there is no win rate", fix="look at the judge's answers")
    spread = float(np.sqrt(np.mean(longer_N**2)))
    one_sided = max((longer_N > 0).mean(), (longer_N < 0).mean()) >= 0.9
    rows = len(won_N)
    bent_N = np.tanh(longer_N / spread) if spread > 0 else np.zeros(rows)
    raw = float(won_N.mean())
    if spread == 0 or raw in (0.0, 1.0):  # nothing hangs on length, or everything is won whatever the length
        return Controlled(Estimate(raw), Estimate(0.0), spread, bool(one_sided))
    line = _line(bent_N, won_N, np.ones((1, rows)))[0]
    value, b = float(sigmoid(line[0])), float(line[1])
    if rows < 3:
        return Controlled(Estimate(value), Estimate(b), spread, bool(one_sided))
    drawn = resampled(rows, seed, lambda counts_RN: _drawn(bent_N, won_N, counts_RN, line))
    rate, slope = interval(value, sigmoid(drawn[:, 0]), rows), interval(b, drawn[:, 1], rows)
    return Controlled(rate, slope, spread, bool(one_sided))


def _drawn(bent_N: Floats, won_N: Floats, counts_RN: Floats, line: Floats) -> Floats:
    """a and b of each resample; one in which all is won has a as far out as the rows could tell."""
    rows = counts_RN.sum(1)
    share = counts_RN @ won_N / rows
    clear = (share > 0) & (share < 1)
    found = np.zeros((len(counts_RN), 2))
    found[:, 0] = np.where(share >= 1, 1, -1) * np.log(2 * rows)
    found[clear] = _line(bent_N, won_N, counts_RN[clear], line)
    return found


def _line(bent_N: Floats, won_N: Floats, counts_RN: Floats, start: Floats | None = None) -> Floats:
    rows_NK = np.stack([np.ones_like(bent_N), bent_N], 1)
    return fitted(rows_NK, won_N, counts_RN, np.array([0.0, RIDGE]), start)
