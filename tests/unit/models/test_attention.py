"""Packed attention against the dense formula, in one pass and by buckets, and the CUDA block mask against both."""

from __future__ import annotations

import pytest
import torch

from luthier.models.blocks.attention import PIECE, PackedAttention, PackedLayout, Segment
from luthier.models.blocks.attention_cuda import flex_attention
from luthier.models.blocks.kernels import attention as one_pass

NODES = (Segment(0, 9, None), Segment(9, 13, 0), Segment(13, 20, 0), Segment(20, 22, 2), Segment(22, 25, None))
FOREST = (
    *(Segment(0, 1, None), Segment(1, 14, 0), Segment(14, 21, 0), Segment(21, 22, 1)),
    *(Segment(22, 22 + PIECE + 3, None), Segment(22 + PIECE + 3, 156, 4), Segment(156, 156 + PIECE + 21, 4)),
)
"""Odd lengths, a first token shared by all, runs of more than one piece."""
BFLOAT = torch.empty(1, 1, 32, dtype=torch.bfloat16)
in_one_pass = pytest.mark.skipif(not one_pass.serves(BFLOAT, BFLOAT, BFLOAT), reason="no compiler or no AVX512-BF16")


def packed(segments: tuple[Segment, ...]) -> PackedLayout:
    position: list[int] = []
    for segment in segments:
        first = 0 if segment.parent is None else position[segments[segment.parent].end - 1] + 1
        position += range(first, first + segment.end - segment.start)
    return PackedLayout(segments, torch.tensor(position))


LAYOUT = packed(NODES)


def dense(q, k, v, window: int, layout: PackedLayout = LAYOUT, scale: float = 1 / 3):
    """softmax(scale q kT + mask) v with the mask written out from the segments."""
    segments, position = layout.segments, layout.position_T
    seen = torch.zeros(len(q), len(q), dtype=torch.bool)
    for segment in segments:
        for above in layout.ancestors(segment):
            seen[segment.start : segment.end, above.start : above.end] = True
        seen[segment.start : segment.end, segment.start : segment.end] = True
    seen &= position[:, None] >= position[None]
    if window:
        seen &= position[:, None] - position[None] < window
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def tensors(heads: tuple[int, int], size: int, grow: float = 1.0) -> tuple[list[torch.Tensor], torch.Tensor]:
    """bf16 queries, keys and values side by side as the fused projection leaves them, and an output's gradient."""
    torch.manual_seed(0)
    tokens, (own, shared) = FOREST[-1].end, heads
    x = (grow * torch.randn(tokens, (own + 2 * shared) * size)).bfloat16().unflatten(1, (-1, size))
    return [*x.split([own, shared, shared], dim=1)], torch.randn(tokens, own, size).bfloat16()


def run(attention, inputs: list[torch.Tensor], outer: torch.Tensor) -> list[torch.Tensor]:
    """Output and gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, outer)]


@in_one_pass
@pytest.mark.parametrize("window", [0, 5, 100])
@pytest.mark.parametrize(("heads", "size"), [((3, 3), 64), ((9, 3), 64), ((8, 2), 32), ((4, 1), 128), ((2, 2), 96)])
def test_one_pass_is_no_less_exact_than_buckets(heads, size: int, window: int, monkeypatch) -> None:
    layout, scale = packed(FOREST), size**-0.5
    inputs, outer = tensors(heads, size)
    exact = run(lambda *x: dense(*x, window, layout, scale), [x.float() for x in inputs], outer.float())
    mine = run(lambda *x: PackedAttention.apply(*x, layout, scale, window), inputs, outer)
    monkeypatch.setattr(one_pass, "serves", lambda *x: False)
    buckets = run(lambda *x: PackedAttention.apply(*x, layout, scale, window), inputs, outer)
    for name, right, a, b in zip(("out", "query", "key", "value"), exact, mine, buckets, strict=True):
        error, allowed = ((x.float() - right).norm() / right.norm() for x in (a, b))
        assert a.dtype == torch.bfloat16 and error < 5e-3, name
        assert error <= allowed, name


@in_one_pass
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_one_pass_repeats_itself_bit_for_bit(threads: int) -> None:
    layout = packed(FOREST)
    inputs, outer = tensors((9, 3), 64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, *others = (run(lambda *x: PackedAttention.apply(*x, layout, 0.125, 0), inputs, outer) for _ in range(6))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@in_one_pass
def test_one_pass_with_scores_of_thousands() -> None:
    layout = packed(FOREST)
    inputs, outer = tensors((4, 2), 32, grow=40.0)
    exact = run(lambda *x: dense(*x, 0, layout, 0.2), [x.float() for x in inputs], outer.float())
    mine = run(lambda *x: PackedAttention.apply(*x, layout, 0.2, 0), inputs, outer)
    assert all(torch.isfinite(x).all() for x in mine)
    assert torch.allclose(mine[0].float(), exact[0], rtol=0.02, atol=0.5)


@pytest.mark.parametrize("size", [16, 48, 288])
def test_other_head_dimensions_go_by_buckets(size: int) -> None:
    layout = packed(FOREST)
    inputs, outer = tensors((4, 2), size)
    assert not one_pass.serves(*inputs)
    exact = run(lambda *x: dense(*x, 0, layout, size**-0.5), [x.float() for x in inputs], outer.float())
    mine = run(lambda *x: PackedAttention.apply(*x, layout, size**-0.5, 0), inputs, outer)
    for a, right in zip(mine, exact, strict=True):
        assert (a.float() - right).norm() / right.norm() < 0.01


@pytest.mark.parametrize("window", [0, 5])
def test_values_and_gradients_are_those_of_dense_attention_under_its_mask(window: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(25, heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    mine = PackedAttention.apply(*inputs, LAYOUT, 1 / 3, window)
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
    mine = flex_attention(*by_head, LAYOUT, 1 / 3, window)
    assert torch.allclose(mine, dense(q, k, v, window), atol=1e-5)
