"""A feed-forward network with a narrow middle (arXiv:1902.00751, fig. 2), in fp32 beside a module of any type.

Shape suffixes: T = tokens (any leading dimensions), D = width of the model, M = width of the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
}
SIGMA = 1e-2
"""Deviation of the paper's first weights, cut off at twice that."""


class Bottleneck(nn.Module):
    """f(x) = W_up φ(W_down x + b) + b'. The residual is left to the caller."""

    def __init__(self, width: int, middle: int, activation: str, start: Literal["identity", "near"]) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.down = nn.Parameter(torch.empty(middle, width))
        self.down_bias = nn.Parameter(torch.zeros(middle))
        self.up = nn.Parameter(torch.zeros(width, middle))
        self.up_bias = nn.Parameter(torch.zeros(width))
        if start == "near":
            for weight in (self.down, self.up):
                nn.init.trunc_normal_(weight, std=SIGMA, a=-2 * SIGMA, b=2 * SIGMA)
        else:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x_TD: Tensor) -> Tensor:
        """T, D -> T, D in the input's type."""
        middle_TM = self.activation(nn.functional.linear(x_TD.to(self.down.dtype), self.down, self.down_bias))
        return nn.functional.linear(middle_TM, self.up, self.up_bias).to(x_TD.dtype)
