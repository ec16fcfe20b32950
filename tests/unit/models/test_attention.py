"""Packed attention against the dense formula, and the CUDA block mask against the CPU layout."""

from __future__ import annotations

import pytest
import torch

from luthier.models.attention import Node, PackedAttention, PackedLayout
from luthier.models.attention_cuda import flex_attention

NODES = (Node(0, 9, None), Node(9, 13, 0), Node(13, 20, 0), Node(20, 22, 2), Node(22, 25, None))
POSITION = torch.tensor([*range(9), *range(9, 13), *range(9, 16), 16, 17, *range(3)])
PATHS = {0: [0], 1: [0, 1], 2: [0, 2], 3: [0, 2, 3], 4: [4]}


def dense(q, k, v, window: int):
    """softmax(q kT / 3 + mask) v with the mask written out from the nodes."""
    owner = [n for n, node in enumerate(NODES) for _ in range(node.start, node.end)]
    seen = torch.tensor([[j <= i and owner[j] in PATHS[owner[i]] for j in range(25)] for i in range(25)])
    if window:
        seen &= POSITION[:, None] - POSITION[None] < window
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / 3
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("window", [0, 5])
def test_values_and_gradients_are_those_of_dense_attention_under_its_mask(window: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(25, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    layout = PackedLayout(NODES, POSITION)
    mine = PackedAttention.apply(*inputs, layout, 1 / 3, window)
    theirs = dense(*inputs, window)
    assert torch.allclose(mine, theirs, atol=1e-5)
    outer = torch.randn_like(mine)
    for a, b in zip(torch.autograd.grad(mine, inputs, outer), torch.autograd.grad(theirs, inputs, outer), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("window", [0, 5])
def test_the_cuda_mask_lets_the_same_tokens_through(window: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(25, heads, 16) for heads in (4, 2, 2))
    by_head = (x.transpose(0, 1) for x in (q, k, v))
    mine = flex_attention(*by_head, PackedLayout(NODES, POSITION), 1 / 3, window)
    assert torch.allclose(mine, dense(q, k, v, window), atol=1e-5)
