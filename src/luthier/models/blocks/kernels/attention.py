"""`attention.c`: attention over packed rows in one pass, on CPUs that multiply bf16 (AVX512-BF16).

Scores never reach memory (FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135); what is kept is each
query's log-sum-exp. Results depend on the number of threads, not on their timing.

Shape suffixes: T = tokens, H = query heads, G = key heads, D = head dimension, P = pieces, K = keys of all pieces.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

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
Pieces = tuple[Tensor, Tensor]
"""(piece_P4: first query, queries, keys before them, where its keys begin in the second; place_K), int64 on CPU."""


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
    """(output T H D, log-sum-exp T H in base 2). `scale` is positive."""
    inputs = _by_token(query, key, value)
    out, lse_TH = query.new_empty(query.shape), torch.empty(query.shape[:2], dtype=torch.float32)
    shape, blocks = _prepare(inputs, pieces, window)
    _call("attention", inputs, *pieces, shape, blocks, out, lse_TH, scale)
    return out, lse_TH


def backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    kept: Sequence[Tensor],
    pieces: Pieces,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; `kept` is what `forward` gave."""
    out, lse_TH = kept
    query, key, value = _by_token(*inputs)
    shape, blocks = _prepare((query, key, value), pieces, window)
    parts, (tokens, heads, size) = torch.get_num_threads(), key.shape
    sums = torch.empty(parts + heads, 2, tokens, size, dtype=torch.float32)
    bounds = torch.empty(parts + 1, dtype=torch.int64)
    grads = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
    given = (query, key, value, out, grad.contiguous())
    _call("attention_backward", given, lse_TH, *pieces, shape, blocks, sums, bounds, grads, scale)
    return grads


def _by_token(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Heads side by side; tokens may be any distance apart."""
    return tuple(x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous() for x in inputs)


def _prepare(inputs: Sequence[Tensor], pieces: Pieces, window: int) -> tuple[Tensor, Tensor]:
    """(`shape` of attention.c, the threads' scratch memory)"""
    (tokens, all_heads, size), heads, parts = inputs[0].shape, inputs[1].shape[1], torch.get_num_threads()
    strides = (x.stride(0) for x in inputs)
    shape = torch.tensor([len(pieces[0]), tokens, heads, all_heads // heads, size, window, *strides, parts, 0])
    _call("attention_scratch", shape, pieces[0])
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
