"""Logistic regression of many samples at once, by Newton's steps: what strengths and length control are both made of.

Shape suffixes: R = resamples, N = rows, K = coefficients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
STEPS = 200
LONGEST = 2.0
"""No step is longer than this: far out the curve is so flat that Newton's own would overshoot."""
SMALL, CLOSE = 1e-10, 1e-5
"""A step below the first ends the search; of many samples, whose spread alone counts, one below the second."""


def fitted(
    rows_NK: Floats, share_N: Floats, count_RN: Floats, ridge_K: Floats, start_K: Floats | None = None
) -> Floats:
    """The coefficients (R, K) that make the likelihood largest, less half the ridge times their squares.

    Row n came out right with `share_N` of its `count_RN[r]` trials. The function is concave and has one top where
    the ridge, or the rows, hold every coefficient. `start_K`: where to begin, for resamples of rows whose own
    coefficients are known.
    """
    width = rows_NK.shape[1]
    squares_NKK = rows_NK[:, :, None] * rows_NK[:, None, :]
    beta_RK = np.tile(np.zeros(width) if start_K is None else start_K, (len(count_RN), 1))
    enough = SMALL if start_K is None else CLOSE
    for _ in range(STEPS):
        p_RN = sigmoid(beta_RK @ rows_NK.T)
        slope_RK = (count_RN * (share_N - p_RN)) @ rows_NK - ridge_K * beta_RK
        weight_RN = count_RN * p_RN * (1 - p_RN)
        curve_RKK = (weight_RN @ squares_NKK.reshape(-1, width * width)).reshape(-1, width, width)
        curve_RKK += np.diag(ridge_K + 1e-14)
        step_RK = np.linalg.solve(curve_RKK, slope_RK[..., None])[..., 0]
        longest_R = np.abs(step_RK).max(1)
        beta_RK += step_RK * np.minimum(1.0, LONGEST / np.maximum(longest_R, SMALL))[:, None]
        if longest_R.max() < enough:
            break
    return beta_RK


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e⁻ˣ), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
