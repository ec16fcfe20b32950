"""The few kernels of the training core: elementwise ones from three backends that compute the same, and attention.

`reference.py` says in torch what each computes, for every dtype and device. On CPU in bf16 and fp32 `cpu.py` runs them
from `cpu.c`, compiled once by the machine's own C compiler and cached; on CUDA `cuda.py` runs them from Triton. Where
neither can be had the reference serves. A name that ends in an underscore may overwrite its first argument.
`attention.py` runs whole attention from `attention.c` where the processor multiplies bf16; elsewhere it is made of
matrix products and the kernels here.

Shape suffixes: T = tokens, D = hidden size, F = width of the feed-forward layer, H = heads, C = tokens of a chunk,
V = vocabulary (or a block of it), B = segments of a bucket.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from luthier.models.blocks.kernels import cpu, reference

__all__ = [
    "causal_softmax_",
    "causal_softmax_backward_",
    "describe",
    "fold",
    "online_softmax_",
    "rms_norm",
    "rms_norm_backward",
    "rope_",
    "swiglu",
    "swiglu_backward_",
    "unfold_",
    "unfold_add_",
]


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """Which backend serves tensors of this kind, in a word or two for the run's log."""
    names = {cpu.__name__: "compiled CPU kernels", reference.__name__: "torch kernels"}
    return names.get(_backend(torch.empty(0, device=device, dtype=dtype)).__name__, "Triton kernels")


def _backend(*tensors: Tensor) -> ModuleType:
    if all(x.is_cuda for x in tensors):
        return _cuda() or reference
    kinds = {(x.device.type, x.dtype) for x in tensors}
    compiled = len(kinds) == 1 and kinds <= {("cpu", dtype) for dtype in cpu.KINDS}
    return cpu if compiled and cpu.library() else reference


def _on_cpu(*tensors: Tensor) -> ModuleType:
    """The backend of attention's kernels, which CUDA does not need: FlexAttention has its own."""
    return reference if any(x.is_cuda for x in tensors) else _backend(*tensors)


@cache
def _cuda() -> ModuleType | None:
    if find_spec("triton") is None:
        return None
    from luthier.models.blocks.kernels import cuda

    return cuda


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(weight * x * rstd, rstd), rstd = rsqrt(mean(x^2) + eps), T in fp32."""
    return _backend(x_TD, weight_D).rms_norm(x_TD, weight_D, eps)


def rms_norm_backward(add_TD: Tensor, grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, rstd_T: Tensor) -> Tensor:
    """`add` plus the gradient of x."""
    return _backend(add_TD, grad_TD, x_TD, weight_D).rms_norm_backward(add_TD, grad_TD, x_TD, weight_D, rstd_T)


def rope_(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, sign: float = 1.0) -> Tensor:
    """Rotary embedding of every head, halves rotated against each other; sign -1 is the inverse and the gradient."""
    return _backend(x_THD, cos_TD, sin_TD).rope_(x_THD, cos_TD, sin_TD, sign)


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """silu(gate) * up: T, 2F -> T, F."""
    return _backend(gate_up_TF).swiglu(gate_up_TF)


def swiglu_backward_(gate_up_TF: Tensor, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of gate and up, the output once more); may overwrite both arguments."""
    return _backend(gate_up_TF, grad_TF).swiglu_backward_(gate_up_TF, grad_TF)


def fold(x_THD: Tensor, place_BL: Tensor, heads: int) -> Tensor:
    """Tokens to segments, the G queries of a key head together: (B `heads`), (G L), D; place -1 gives zero."""
    return _on_cpu(x_THD).fold(x_THD, place_BL, heads)


def unfold_(out_THD: Tensor, x: Tensor, place_BL: Tensor, heads: int) -> None:
    """Undo `fold`, for places that occur once."""
    _on_cpu(out_THD, x).unfold_(out_THD, x, place_BL, heads)


def unfold_add_(sum_TGD: Tensor, x: Tensor, place_BL: Tensor) -> None:
    """Undo `fold` of key-like tensors into fp32, adding up where segments share places."""
    _on_cpu(x).unfold_add_(sum_TGD, x, place_BL)


def causal_softmax_(
    scores: Tensor, prefix_B: Tensor, length_B: Tensor, longest: int, scale: float, window: int
) -> Tensor:
    """softmax(scale * scores) over the keys that a query sees; the others get 0. (B Hk), (G L), K; L = `longest`."""
    return _on_cpu(scores).causal_softmax_(scores, prefix_B, length_B, longest, scale, window)


def causal_softmax_backward_(grad: Tensor, p: Tensor, scale: float) -> Tensor:
    """Gradient of the scores: scale * p * (grad - sum_k grad p)."""
    return _on_cpu(grad, p).causal_softmax_backward_(grad, p, scale)


def online_softmax_(logits_CV: Tensor, top_C: Tensor, sum_C: Tensor, total_C: Tensor) -> tuple[Tensor, Tensor]:
    """Take one block of the vocabulary into a running softmax; (e^(logits - top), rescale).

    `top`, `sum` (of e^(logits - top)) and `total` (of logits), fp32, are updated in place, starting from -inf, 0 and
    0. What was summed over earlier blocks must be multiplied by `rescale`, C.
    """
    return _backend(logits_CV).online_softmax_(logits_CV, top_C, sum_C, total_C)
