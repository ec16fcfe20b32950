"""Information-calibrated NF4 (arXiv:2402.05445): each block is shifted so that its 16 codes say as much as they can.

w ≈ NF4(w − τ) + τ, one τ for 64 weights: the median, moved by the share of the block's width that makes the entropy of
its codes largest. τ itself is kept in 8 bits.

Shape suffixes: N = blocks, B = weights of a block, K = thresholds between codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK, SCALES = 64, 256
"""Weights that share a shift and a scale; shifts that share a scale of theirs."""
AT_ONCE = 1 << 15
"""Blocks searched at a time."""
SIGMA = 0.5411
"""The step of the normal quantiles that NF4 is made of: 1 / Φ⁻¹(0.9677083), as the authors' code has it."""


def entropy(sorted_NB: Tensor, tau_N: Tensor) -> Tensor:
    """Bits per code of each block (N), its weights given in ascending order and shifted by tau."""
    from bitsandbytes import functional

    library: Any = functional
    codes = library.get_4bit_type("nf4", device=sorted_NB.device)
    middle_K = (codes[1:] + codes[:-1]) / 2
    absmax_N = torch.maximum((sorted_NB[:, -1] - tau_N).abs(), (sorted_NB[:, 0] - tau_N).abs())
    bounds_NK = tau_N[:, None] + absmax_N[:, None] * middle_K
    below = torch.searchsorted(sorted_NB, bounds_NK.contiguous(), right=True)
    count = torch.diff(
        below, dim=1, prepend=torch.zeros_like(below[:, :1]), append=torch.full_like(below[:, :1], BLOCK)
    )
    share = count / sorted_NB.shape[1]
    return -torch.xlogy(share, share).sum(1) / torch.log(torch.tensor(2.0))


@torch.no_grad()
def shifts(blocks_NB: Tensor, width: float, steps: int) -> Tensor:
    """The shift of each block (N): median + f max|w − median|, f of 2 steps + 1 values in ±width σ, by entropy."""
    found = []
    for part_NB in torch.split(blocks_NB.float(), AT_ONCE):
        sorted_NB = part_NB.sort(1).values.contiguous()
        median_N = sorted_NB[:, (sorted_NB.shape[1] - 1) // 2]
        reach_N = (part_NB - median_N[:, None]).abs().max(1).values
        best_N, most_N = median_N, entropy(sorted_NB, median_N)
        for f in torch.linspace(-width * SIGMA, width * SIGMA, 2 * steps + 1).tolist():
            tau_N = median_N + f * reach_N
            bits_N = entropy(sorted_NB, tau_N)
            best_N, most_N = torch.where(bits_N > most_N, tau_N, best_N), torch.maximum(bits_N, most_N)
        found.append(best_N)
    return torch.cat(found)


def packed(tau_N: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts in 8 bits (N), and their scales."""
    from bitsandbytes import functional

    codes, state = functional.quantize_blockwise(tau_N.float().contiguous(), blocksize=SCALES)
    return codes, state.absmax


def unpacked(codes_N: Tensor, scales: Tensor) -> Tensor:
    """The shifts again, N in fp32."""
    from bitsandbytes import functional

    library: Any = functional
    code = library.create_dynamic_map().to(codes_N.device)
    found: Tensor = functional.dequantize_blockwise(codes_N, absmax=scales, code=code, blocksize=SCALES)
    return found.float()


def rounded(weight_OI: Tensor, tau_N: Tensor, double: bool) -> tuple[Tensor, Any]:
    """NF4 codes of w − τ, and bitsandbytes' state of them; rows must be of whole blocks."""
    from bitsandbytes import functional

    shifted = (weight_OI.float().reshape(-1, BLOCK) - tau_N[:, None]).view(weight_OI.shape)
    found: tuple[Tensor, Any] = functional.quantize_4bit(
        shifted, blocksize=BLOCK, compress_statistics=double, quant_type="nf4"
    )
    return found
