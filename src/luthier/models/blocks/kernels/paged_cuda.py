"""Attention of single tokens over pages for CUDA, in Triton: a program for each row, key head and stretch of keys,
then one for each row and head that brings the stretches together.

Stretches are cut at the same places whatever else is in the step, so a row's numbers are its own. `blocks/paged.py`
says in torch what is computed.
"""

# Triton compiles these functions from their source; annotations other than tl.constexpr mean nothing to it.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.models.decode.step import PAGE

STRETCH, KEYS, FEWER = 256, 64, 32
"""Keys of a stretch, and those of them that are looked at together; of large heads fewer, so that smaller devices have
room for them."""
EVER = 2**30
"""The window of who sees all."""


@triton.jit
def _stretch(
    q, k, v, table, position, acc, top, total, scale,
    pages, window, groups, shared, size, wide, parts,
    PAGE: tl.constexpr, STRETCH: tl.constexpr, KEYS: tl.constexpr,
    Q: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // groups).to(tl.int64)
    group, part = tl.program_id(0) % groups, tl.program_id(1)
    last = tl.load(position + row)
    first = tl.maximum(last - window + 1, 0)
    i, d, e = tl.arange(0, Q), tl.arange(0, D), tl.arange(0, V)
    head = row * groups * shared + group * shared + i
    query = tl.load(q + head[:, None] * size + d[None], (i < shared)[:, None] & (d < size)[None], 0.0)
    best, added = tl.full((Q,), float("-inf"), tl.float32), tl.zeros((Q,), tl.float32)
    out = tl.zeros((Q, V), tl.float32)
    start = tl.maximum(part * STRETCH, first // KEYS * KEYS)
    for at in range(start, tl.minimum(part * STRETCH + STRETCH, last + 1), KEYS):
        n = at + tl.arange(0, KEYS)
        seen = (n >= first) & (n <= last)
        slot = tl.load(table + row * pages + n // PAGE, seen, 0) * PAGE + n % PAGE
        place = slot.to(tl.int64) * groups + group
        key = tl.load(k + place[None] * size + d[:, None], seen[None] & (d < size)[:, None], 0.0)
        score = tl.dot(query, key, input_precision="ieee") * scale
        score = tl.where(seen[None], score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade, p = tl.exp(best - base), tl.exp(score - base[:, None])
        value = tl.load(v + place[:, None] * wide + e[None], seen[:, None] & (e < wide)[None], 0.0)
        out = out * fade[:, None] + tl.dot(p.to(value.dtype), value, input_precision="ieee")
        added = added * fade + tl.sum(p, 1)
        best = higher
    slot = head * parts + part
    tl.store(top + slot, best, i < shared)
    tl.store(total + slot, added, i < shared)
    tl.store(acc + slot[:, None] * wide + e[None], out, (i < shared)[:, None] & (e < wide)[None])


@triton.jit
def _together(acc, top, total, out, wide, parts, V: tl.constexpr):
    head, e = tl.program_id(0).to(tl.int64), tl.arange(0, V)
    best, added = tl.full((), float("-inf"), tl.float32), tl.zeros((), tl.float32)
    summed = tl.zeros((V,), tl.float32)
    for part in range(parts):
        slot = head * parts + part
        high = tl.load(top + slot)  # -inf where none of the stretch is seen: it adds nothing, to the bit
        higher = tl.maximum(best, high)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade, share = tl.exp(best - base), tl.exp(high - base)
        summed = summed * fade + share * tl.load(acc + slot * wide + e, e < wide, 0.0)
        added = added * fade + share * tl.load(total + slot)
        best = higher
    tl.store(out + head * wide + e, (summed / added).to(out.dtype.element_ty), e < wide)


def paged_attention(
    query_RHD: Tensor, pool: tuple[Tensor, Tensor], table_RP: Tensor, position_R: Tensor, scale: float, window: int
) -> Tensor:
    """As `blocks.paged.paged_attention`."""
    keys_SGD, values_SGD = pool
    rows, heads, size = query_RHD.shape
    groups, wide = values_SGD.shape[1:]
    parts = triton.cdiv(table_RP.shape[1] * PAGE, STRETCH)
    like = {"dtype": torch.float32, "device": query_RHD.device}
    acc = torch.empty(rows, heads, parts, wide, **like)
    top, total = torch.empty(2, rows, heads, parts, **like)
    out_RHD = query_RHD.new_empty(rows, heads, wide)
    blocks = {"Q": max(16, triton.next_power_of_2(heads // groups)), "D": max(16, triton.next_power_of_2(size))}
    keys = KEYS if max(size, wide) * keys_SGD.element_size() <= 512 else FEWER
    v_block = max(16, triton.next_power_of_2(wide))
    _stretch[(rows * groups, parts)](
        query_RHD.contiguous(), keys_SGD, values_SGD, table_RP.contiguous(), position_R, acc, top, total, scale,
        table_RP.shape[1], window or EVER, groups, heads // groups, size, wide, parts,
        PAGE=PAGE, STRETCH=STRETCH, KEYS=keys, V=v_block, **blocks,
    )  # fmt: skip
    _together[(rows * heads,)](acc, top, total, out_RHD, wide, parts, V=v_block)
    return out_RHD
