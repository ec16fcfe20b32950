"""TwoNN (doi:10.1038/s41598-017-11873-y): the intrinsic dimension of points, from each one's two nearest neighbours.

Where points lie on a d-dimensional surface, the ratio μ of the distances to the second and the first neighbour is
distributed as F(μ) = 1 − μ^(−d), whatever their density: d is the slope of −log(1 − F) over log μ through the origin.

Shape suffixes: N = points, D = coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.errors import LuthierError

DROPPED = 0.1
"""Share of the largest ratios that the paper leaves out of the fit: outliers bend it."""
FEWEST = 20
"""Distinct points without which there is nothing to fit."""


def intrinsic_dimension(points_ND: Tensor) -> float:
    """The estimate. Equal points count once. Biased low above about 15 dimensions, as any count of neighbours is.

    Raises LuthierError for fewer than `FEWEST` distinct points.
    """
    points_ND = torch.unique(points_ND.double(), dim=0)
    count = len(points_ND)
    if count < FEWEST:
        raise LuthierError(
            f"the intrinsic dimension of {count} distinct points cannot be measured",
            where="adapt.gelora.rows",
            fix=f"give at least {FEWEST} different rows, better a thousand",
        )
    distance_NN = torch.cdist(points_ND, points_ND, compute_mode="donot_use_mm_for_euclid_dist")
    nearest_N3 = distance_NN.topk(3, largest=False).values  # the nearest of all is the point itself
    log_N = (nearest_N3[:, 2] / nearest_N3[:, 1]).log().sort().values[: int((1 - DROPPED) * count)]
    share_N = torch.arange(1, len(log_N) + 1, dtype=torch.float64, device=log_N.device) / count
    height_N = -torch.log1p(-share_N)
    spread = float(log_N @ log_N)
    most = float(points_ND.shape[1])
    return min(float(log_N @ height_N) / spread, most) if spread else most
