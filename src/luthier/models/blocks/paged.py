"""Attention of single tokens over pages of keys and values, in shapes that do not hang on what lies in them.

On CUDA it is a kernel that reads the pages where they lie (`kernels/paged_cuda.py`). torch's own ways do not fit:
`torch.nn.attention.varlen` takes page tables only with FlashAttention 3 installed beside it; FlexAttention is compiled
anew for each number of rows and each size of the pool. Elsewhere, and without Triton, keys are gathered.

Shape suffixes: R = rows, one token each, S = places in the pool, P = pages of a row (padded), K = keys of a row
(padded), H = heads, G = key heads, Q = heads that share a key head, D = head dimension.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from luthier.models.decode.step import PAGE


def paged_attention(
    query_RHD: Tensor, pool: tuple[Tensor, Tensor], table_RP: Tensor, position_R: Tensor, scale: float, window: int
) -> Tensor:
    """Each row's token, at its position, attends to the keys and values (S, G, D) of its pages up to itself, the last
    `window` of them (0: all) -> R, H, D. What `table_RP` names beyond the position must exist and is not looked at.
    """
    kernel = _kernel() if query_RHD.is_cuda else None
    way = gathered if kernel is None else kernel.paged_attention
    return way(query_RHD, pool, table_RP, position_R, scale, window)


@cache
def _kernel() -> Any:
    if find_spec("triton") is None:
        return None
    from luthier.models.blocks.kernels import paged_cuda

    return paged_cuda


def gathered(
    query_RHD: Tensor, pool: tuple[Tensor, Tensor], table_RP: Tensor, position_R: Tensor, scale: float, window: int
) -> Tensor:
    """`paged_attention` over a copy of the rows' keys and values."""
    rows, heads, _ = query_RHD.shape
    key_K = torch.arange(table_RP.shape[1] * PAGE, device=query_RHD.device)
    slot_RK = table_RP[:, key_K // PAGE] * PAGE + key_K % PAGE
    before_RK = key_K <= position_R[:, None]
    # what lies beyond may be no number, which weighs in even when multiplied by 0: the token's own place instead
    slot_RK = torch.where(before_RK, slot_RK, slot_RK.gather(1, position_R[:, None]))
    keys_RGKD, values_RGKD = (part[slot_RK].transpose(1, 2) for part in pool)
    seen_RK = before_RK & (key_K > position_R[:, None] - window) if window else before_RK
    # heads that share keys stand as queries side by side: no copy of the keys for each
    query_RGQD = query_RHD.reshape(rows, pool[0].shape[1], -1, query_RHD.shape[-1])
    attention = torch.nn.functional.scaled_dot_product_attention
    out: Tensor = attention(query_RGQD, keys_RGKD, values_RGKD, seen_RK[:, None, None], scale=scale)
    return out.reshape(rows, heads, -1)
