"""`attention.c`: attention over packed rows in one pass, on CPUs that multiply bf16 (AVX512-BF16).

Scores never reach memory (FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135); what is kept is each
query's log-sum-exp. Results depend on the number of threads, not on their timing.

Shape suffixes: T = tokens, H = query heads, G = key heads, D = head dimension, P = pieces, K = keys of all pieces.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.models.blocks.kernels import cpu

LONGEST_HEAD = 256
POINTER, REAL = ctypes.c_void_p, ctypes.c_float
SIGNATURES = {
    "attention_scratch": [POINTER] * 2,
    "attention": [POINTER] * 7 + [REAL],
    "attention_backward": [POINTER] * 9 + [REAL],
}


class Pieces(NamedTuple):
    """What a layout's tokens see, int64 on CPU. Made by `of`, which sees to it that no place lies outside."""

    piece_P4: Tensor
    """First query, queries, keys before them, where its keys begin in `place_K`."""
    place_K: Tensor
    tokens: int
    """Of the micro-batch."""

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, int, int]], place_K: Tensor) -> Pieces:
        """Raises ValueError for pieces that reach beyond their keys, or keys beyond the tokens."""
        tokens = max(start + length for start, length, _, _ in rows)
        for start, length, before, first in rows:
            if start < 0 or length < 1 or before < 0 or first < 0 or first + before + length > len(place_K):
                raise ValueError(f"attention: a piece {(start, length, before, first)} of {len(place_K)} keys")
        if int(place_K.min()) < 0 or int(place_K.max()) >= tokens:
            raise ValueError(f"attention: keys at {int(place_K.min())} to {int(place_K.max())} of {tokens} tokens")
        return cls(torch.tensor(rows), place_K.to(torch.int64).contiguous(), tokens)


@cache
def _library() -> ctypes.CDLL | None:
    loaded = cpu.library()
    if loaded is None or not loaded.has_attention():
        return None
    for name, signature in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = signature, None
    return loaded


def serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Can these be attended with here?"""
    size = query.shape[-1]
    fits = size % 32 == 0 and size <= LONGEST_HEAD
    kind = all(x.device.type == "cpu" and x.dtype == torch.bfloat16 for x in (query, key, value))
    return fits and kind and _library() is not None


def forward(
    query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float, window: int
) -> tuple[Tensor, Tensor]:
    """(output T H D, log-sum-exp T H in base 2). `scale` is positive. Raises ValueError for tensors that differ from
    each other, or from the pieces."""
    _check(query, key, value, pieces)
    inputs = _by_token(query, key, value)
    out, lse_TH = query.new_empty(query.shape), torch.empty(query.shape[:2], dtype=torch.float32)
    shape, blocks = _prepare(inputs, pieces, window)
    _call("attention", inputs, pieces.piece_P4, pieces.place_K, shape, blocks, out, lse_TH, scale)
    return out, lse_TH


def backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    kept: Sequence[Tensor],
    pieces: Pieces,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; `kept` is what `forward` gave. Raises ValueError as it does."""
    out, lse_TH = kept
    _check(*inputs, pieces)
    whole = inputs[0].shape
    cpu.must("attention's gradient", "the output's gradient", grad, whole, torch.bfloat16, contiguous=False)
    cpu.must("attention's gradient", "the output", out, whole, torch.bfloat16)
    cpu.must("attention's gradient", "its log-sum-exp", lse_TH, whole[:2], torch.float32)
    query, key, value = _by_token(*inputs)
    shape, blocks = _prepare((query, key, value), pieces, window)
    parts, (tokens, heads, size) = torch.get_num_threads(), key.shape
    sums = torch.empty(parts + heads, 2, tokens, size, dtype=torch.float32)
    bounds = torch.empty(parts + 1, dtype=torch.int64)
    grads = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
    given = (query, key, value, out, grad.contiguous())
    places = pieces.piece_P4, pieces.place_K
    _call("attention_backward", given, lse_TH, *places, shape, blocks, sums, bounds, grads, scale)
    return grads


def _check(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces) -> None:
    if query.dim() != 3 or key.dim() != 3 or query.shape[1] % key.shape[1]:
        raise ValueError(f"attention: queries {list(query.shape)} and keys {list(key.shape)} are not T H D and T G D")
    tokens, size = pieces.tokens, query.shape[2]
    if size % 32 or size > LONGEST_HEAD:
        raise ValueError(f"attention: heads of {size} numbers, not a multiple of 32 up to {LONGEST_HEAD}")
    for name, x, heads in (
        ("queries", query, query.shape[1]),
        ("keys", key, key.shape[1]),
        ("values", value, key.shape[1]),
    ):
        cpu.must("attention", name, x, (tokens, heads, size), torch.bfloat16, contiguous=False)


def _by_token(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Heads side by side; tokens may be any distance apart."""
    return tuple(x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous() for x in inputs)


def _prepare(inputs: Sequence[Tensor], pieces: Pieces, window: int) -> tuple[Tensor, Tensor]:
    """(`shape` of attention.c, the threads' scratch memory)"""
    (tokens, all_heads, size), heads, parts = inputs[0].shape, inputs[1].shape[1], torch.get_num_threads()
    strides = (x.stride(0) for x in inputs)
    shape = torch.tensor([len(pieces.piece_P4), tokens, heads, all_heads // heads, size, window, *strides, parts, 0])
    _call("attention_scratch", shape, pieces.piece_P4)
    return shape, torch.empty(parts * int(shape[-1]), dtype=torch.uint8)


def _call(name: str, *arguments: Tensor | Sequence[Tensor] | float) -> None:
    """Tensors go as their addresses, sequences of them as arrays of addresses."""
    getattr(_library(), name)(*map(_address, arguments))


def _address(argument: Tensor | Sequence[Tensor] | float) -> object:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    if isinstance(argument, float):
        return argument
    return (POINTER * len(argument))(*(x.data_ptr() for x in argument))
