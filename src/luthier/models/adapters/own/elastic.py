"""LoRA with an elastic connection, on a layer in calibrated NF4 (arXiv:2402.05445).

Shape suffixes: T = tokens (any leading dimensions), I = inputs, O = outputs, R = rank, N = blocks of 64 weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.quantizers import is_quantised
from luthier.models.quantizers.calibrated import BLOCK, SCALES, packed, rounded, shifts, unpacked


class Elastic(nn.Module):
    """B'(A' x), A' = A + β₁ P, B' = B + β₂ R: P averages inputs into r groups, R hands each of r numbers to a group of
    outputs. Beside them the shifts of the layer's blocks, which are part of the base."""

    def __init__(self, inputs: int, outputs: int, r: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(r, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, r))
        self.beta = nn.Parameter(torch.zeros(2))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        blocks = inputs * outputs // BLOCK
        self.register_buffer("shift", torch.zeros(blocks, dtype=torch.uint8))
        self.register_buffer("shift_scale", torch.zeros(-(-blocks // SCALES)))
        self.calibrated = False
        self.tau: Tensor | None = None

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(A', R x I; B', O x R): the same map as plain LoRA."""
        r, inputs, outputs = len(self.down), self.down.shape[1], len(self.up)
        pool_RI, spread_OR = groups(r, inputs), groups(r, outputs).T
        pool_RI = pool_RI / pool_RI.sum(1, keepdim=True)
        spread_OR = spread_OR / spread_OR.sum(1, keepdim=True)
        device = self.down.device
        return self.down + self.beta[0] * pool_RI.to(device), self.up + self.beta[1] * spread_OR.to(device)

    def forward(self, x_TI: Tensor) -> Tensor:
        """T, I -> T, O in the input's type."""
        down_RI, up_OR = self.matrices()
        z_TR = nn.functional.linear(x_TI.to(down_RI.dtype), down_RI)
        return nn.functional.linear(z_TR, up_OR).to(x_TI.dtype)

    # the base's shifts
    @torch.no_grad()
    def calibrate(self, layer: Any, weight_OI: Tensor, width: float, steps: int) -> None:
        """Find the shifts of a layer's blocks and round it again."""
        codes, scales = packed(shifts(weight_OI.reshape(-1, BLOCK), width, steps))
        self.shift.copy_(codes)  # type: ignore[operator]
        self.shift_scale.copy_(scales)  # type: ignore[operator]
        self.round(layer, weight_OI)

    @torch.no_grad()
    def round(self, layer: Any, weight_OI: Tensor) -> None:
        """Round a layer with the shifts as they are; one that is not quantised receives what it would compute with."""
        from bitsandbytes.functional import dequantize_4bit

        tau_N: Tensor = unpacked(self.shift, self.shift_scale)  # type: ignore[arg-type]
        few_bits = is_quantised(layer.weight)
        codes, state = rounded(weight_OI, tau_N, layer.weight.compress_statistics if few_bits else True)
        if few_bits:
            layer.weight.data, layer.weight.quant_state, layer.quant_state = codes, state, state
            self.tau = tau_N.view(len(weight_OI), -1)
        else:
            whole_OI = (dequantize_4bit(codes, state).view(-1, BLOCK) + tau_N[:, None]).view(weight_OI.shape)
            layer.weight.data.copy_(whole_OI if layer.weight.shape == weight_OI.shape else whole_OI.T)
        self.calibrated = True

    def shifted(self, x_TI: Tensor) -> Tensor:
        """What the shifts add to the layer's output: each block's inputs summed, times its shift."""
        assert self.tau is not None
        sums_TN = torch.unflatten(x_TI, -1, (-1, BLOCK)).sum(-1, dtype=torch.float32)
        return nn.functional.linear(sums_TN, self.tau).to(x_TI.dtype)


def groups(r: int, size: int) -> Tensor:
    """0/1, r x size: which of r numbers goes with which of `size`, in gcd(r, size) groups of neighbours."""
    g = math.gcd(r, size)
    return torch.eye(g).repeat_interleave(r // g, 0).repeat_interleave(size // g, 1)
