"""An edit of the residual stream within a low-rank subspace (arXiv:2404.03592, eq. 2), in fp32.

Shape suffixes: T = tokens, D = hidden size, R = rank.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class Intervention(nn.Module):
    """h + Rᵀ (W h + b - R h), the rows of R orthonormal.

    R is the Gram-Schmidt basis of the rows of `basis`, which train freely: whatever step is taken, R Rᵀ = I.
    """

    def __init__(self, width: int, rank: int, start: Literal["identity", "random"]) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.empty(rank, width))
        nn.init.orthogonal_(self.basis)
        self.weight = nn.Parameter(torch.empty(rank, width))
        self.bias = nn.Parameter(torch.zeros(rank))
        if start == "identity":
            with torch.no_grad():
                self.weight.copy_(self.rotation())
        else:
            bound = width**-0.5  # as torch begins a linear layer
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)

    def rotation(self) -> Tensor:
        """R, with the signs that make it one smooth function of `basis`."""
        q_DR, r_RR = torch.linalg.qr(self.basis.T)
        signs_R = torch.where(r_RR.diagonal() < 0, -1.0, 1.0)
        return (q_DR * signs_R).T

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """T, D -> T, D in the input's type."""
        wide_TD = hidden_TD.to(self.weight.dtype)
        rotation_RD = self.rotation()
        # W - R first: where W = R nothing at all is added
        move_TR = nn.functional.linear(wide_TD, self.weight - rotation_RD, self.bias)
        return (wide_TD + move_TR @ rotation_RD).to(hidden_TD.dtype)
