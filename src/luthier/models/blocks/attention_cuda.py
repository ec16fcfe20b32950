"""Packed attention on CUDA: FlexAttention with the layout as a block mask.

Nodes lie in depth-first order, so the tokens below a segment are one run: token j is visible to token i exactly if
j <= i < end[j], with end[j] the end of the subtree of j's segment.

Shape suffixes: T = tokens, H = query heads, G = key heads, D = head dimension.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

if TYPE_CHECKING:
    from luthier.models.blocks.attention import PackedLayout

PAD = 128
"""FlexAttention works in blocks of 128 tokens; other lengths are filled up with tokens that nobody sees."""


@cache
def _compiled() -> Any:
    return torch.compile(torch_flex_attention, dynamic=True)


def flex_attention(
    query_HTD: Tensor, key_GTD: Tensor, value_GTD: Tensor, layout: PackedLayout, scale: float, window: int
) -> Tensor:
    """Differentiable attention over the layout: H, T, D and G, T, D -> T, H, D."""
    tokens = query_HTD.shape[1]
    fill = -tokens % PAD
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, fill))[None] for x in (query_HTD, key_GTD, value_GTD))
    mask = layout.flex.get(window)
    if mask is None:
        mask = layout.flex[window] = _block_mask(layout, tokens + fill, window)
    run = _compiled() if q.is_cuda else torch_flex_attention  # on CPU only the tests come here
    out = run(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[0, :, :tokens].transpose(0, 1)


def _block_mask(layout: PackedLayout, tokens: int, window: int) -> Any:
    device = layout.position_T.device
    ends = list(range(len(layout.segments)))
    for n in range(len(layout.segments) - 1, -1, -1):
        parent = layout.segments[n].parent
        ends[n] = max(ends[n], n)
        if parent is not None:
            ends[parent] = max(ends[parent], ends[n])
    lengths = torch.tensor([segment.end - segment.start for segment in layout.segments])
    until = torch.tensor([layout.segments[last].end for last in ends]).repeat_interleave(lengths)
    end_T = torch.zeros(tokens, dtype=torch.int32)
    end_T[: len(until)] = until
    position_T = torch.zeros(tokens, dtype=torch.int32, device=device)
    position_T[: len(until)] = layout.position_T
    end_T = end_T.to(device)

    def visible(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = (j <= i) & (i < end_T[j])
        return seen & (position_T[i] - position_T[j] < window) if window else seen

    return create_block_mask(visible, None, None, tokens, tokens, device=device)
