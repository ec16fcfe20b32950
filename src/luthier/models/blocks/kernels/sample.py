"""`sample.c`: the next token of every row of logits in one call, fp32 on CPU; rows may differ in all they ask.

Shape suffixes: B = rows, V = vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from luthier.models.blocks.kernels import cpu

LIKELIEST = 20
"""So many of the likeliest tokens can be told at most."""
NO_NUMBER, NOTHING_LEFT = -1, -2
"""In a token's place: the logits hold a NaN or +inf, or nothing but -inf; bias and grammar leave no token."""
POINTER, SIZE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class Row(ctypes.Structure):
    """`row` of sample.c: what one row asks, and what it got. Who fills it in keeps the arrays alive."""

    _fields_ = (
        *((name, POINTER) for name in ("biased", "bias", "seen", "count", "mask")),
        *((name, SIZE) for name in ("biases", "seens", "top_k", "likeliest")),
        *((name, REAL) for name in ("temperature", "top_p", "min_p", "repetition", "presence", "frequency", "draw")),
        ("token", SIZE),
        ("logp", REAL),
        ("drawn", REAL),
        ("top", ctypes.c_int32 * LIKELIEST),
        ("top_logp", REAL * LIKELIEST),
    )


@cache
def _library() -> ctypes.CDLL | None:
    loaded = cpu.library()
    if loaded is not None:
        loaded.sample_scratch.argtypes, loaded.sample_scratch.restype = [SIZE], SIZE
        loaded.sample.argtypes, loaded.sample.restype = [POINTER, SIZE, POINTER, SIZE, SIZE, POINTER, SIZE], None
    return loaded


def serves() -> bool:
    """Is there a compiled kernel?"""
    return _library() is not None


def sample(logits_BV: Tensor, rows: Sequence[Row]) -> None:
    """Fill in what each row gets. Tokens that rows name must lie in the vocabulary, and masks must cover it.

    Raises ValueError for logits that are not B x V of fp32 on the CPU, each row without gaps.
    """
    loaded = _library()
    if loaded is None:
        raise ValueError("sample: there is no compiled kernel")
    if logits_BV.dim() != 2 or not logits_BV.numel():
        raise ValueError(f"sample: logits {list(logits_BV.shape)} are not B x V")
    cpu.must("sample", "the logits", logits_BV, (len(rows), logits_BV.shape[1]), torch.float32, contiguous=False)
    if logits_BV.stride(1) != 1:
        logits_BV = logits_BV.contiguous()
    size = logits_BV.shape[1]
    threads = max(1, min(torch.get_num_threads(), len(rows)))
    scratch = torch.empty(threads * loaded.sample_scratch(size), dtype=torch.uint8)
    addresses = (POINTER * len(rows))(*map(ctypes.addressof, rows))
    stride = logits_BV.stride(0)
    loaded.sample(logits_BV.data_ptr(), stride, addresses, len(rows), size, scratch.data_ptr(), threads)
