"""What an objective sees: the scored tokens of a micro-batch laid end to end, without padding.

Shape suffixes: S = scored tokens of the micro-batch, N = rows (responses).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The scored tokens of N responses. `row_S[s]` says which row token s belongs to; rows are in order."""

    logp_S: Tensor
    """log pi(token | what precedes it), fp32."""
    weight_S: Tensor
    """How much the token trains, fp32."""
    row_S: Tensor
    num_rows: int
    mean_logp_S: Tensor | None = None
    """Mean log-probability over the whole vocabulary (label smoothing), if the objective asked for it."""

    def total(self, values_S: Tensor) -> Tensor:
        """Sum over each row's tokens: S -> N."""
        zeros_N = torch.zeros(self.num_rows, dtype=values_S.dtype, device=values_S.device)
        return zeros_N.index_add(0, self.row_S, values_S)

    def mean(self, values_S: Tensor) -> Tensor:
        """Mean over each row's tokens: S -> N. A row without tokens gives 0."""
        counts_N = self.total(torch.ones_like(values_S)).clamp(min=1)
        return self.total(values_S) / counts_N
