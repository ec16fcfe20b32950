"""The few elementwise kernels of the training core.

`reference.py` says in torch what each computes, for every dtype and device. On CPU in bf16 the same maths runs from
`cpu.c`, compiled once by the machine's own C compiler and cached; without a compiler the reference serves.
A name that ends in an underscore may overwrite its first argument.

Shape suffixes: T = tokens, D = hidden size, F = width of the feed-forward layer, H = heads, C = tokens of a chunk,
V = vocabulary (or a block of it), B = nodes of a bucket.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from luthier.models.kernels import reference
from luthier.models.kernels.compiled import library

__all__ = [
    "causal_softmax_",
    "causal_softmax_backward_",
    "compiled",
    "online_softmax_",
    "rms_norm",
    "rms_norm_backward",
    "rope_",
    "swiglu",
    "swiglu_backward_",
]


def compiled() -> bool:
    """Whether the compiled kernels are at hand."""
    return library() is not None


def _kernels(*tensors: Tensor) -> ctypes.CDLL | None:
    """The compiled kernels, if they serve these tensors: on CPU, in bf16."""
    if any(x.device.type != "cpu" or x.dtype != torch.bfloat16 for x in tensors):
        return None
    return library()


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(weight * x * rstd, rstd), rstd = rsqrt(mean(x^2) + eps), T in fp32."""
    kernels = _kernels(x_TD, weight_D)
    if kernels is None:
        return reference.rms_norm(x_TD, weight_D, eps)
    out_TD, rstd_T = torch.empty_like(x_TD), torch.empty(x_TD.shape[0], dtype=torch.float32)
    pointers = (t.data_ptr() for t in (x_TD, weight_D, out_TD, rstd_T))
    kernels.rms_norm(*pointers, *x_TD.shape, eps)
    return out_TD, rstd_T


def rms_norm_backward(add_TD: Tensor, grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, rstd_T: Tensor) -> Tensor:
    """`add` plus the gradient of x."""
    kernels = _kernels(add_TD, grad_TD, x_TD, weight_D)
    if kernels is None:
        return reference.rms_norm_backward(add_TD, grad_TD, x_TD, weight_D, rstd_T)
    out_TD = torch.empty_like(x_TD)
    pointers = (t.data_ptr() for t in (add_TD, grad_TD, x_TD, weight_D, rstd_T, out_TD))
    kernels.rms_norm_backward(*pointers, *x_TD.shape)
    return out_TD


def rope_(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, sign: float = 1.0) -> Tensor:
    """Rotary embedding of every head, halves rotated against each other; sign -1 is the inverse and the gradient."""
    kernels = _kernels(x_THD, cos_TD, sin_TD)
    if kernels is None:
        return reference.rope_(x_THD, cos_TD, sin_TD, sign)
    rows, heads, size = x_THD.shape
    kernels.rope(x_THD.data_ptr(), cos_TD.data_ptr(), sin_TD.data_ptr(), rows, heads, size, x_THD.stride(0), sign)
    return x_THD


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """silu(gate) * up: T, 2F -> T, F."""
    kernels = _kernels(gate_up_TF)
    if kernels is None:
        return reference.swiglu(gate_up_TF)
    rows, size = gate_up_TF.shape[0], gate_up_TF.shape[1] // 2
    out_TF = gate_up_TF.new_empty(rows, size)
    kernels.swiglu(gate_up_TF.data_ptr(), out_TF.data_ptr(), rows, size)
    return out_TF


def swiglu_backward_(gate_up_TF: Tensor, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of gate and up, the output once more), written over the arguments where the kernel serves."""
    kernels = _kernels(gate_up_TF, grad_TF)
    if kernels is None:
        return reference.swiglu_backward_(gate_up_TF, grad_TF)
    kernels.swiglu_backward(gate_up_TF.data_ptr(), grad_TF.data_ptr(), *grad_TF.shape)
    return gate_up_TF, grad_TF


def causal_softmax_(scores: Tensor, prefix_B: Tensor, length_B: Tensor, scale: float, window: int) -> Tensor:
    """softmax(scale * scores) over the keys that a query sees; the others get 0. (B Hk), (G L), K."""
    kernels = _kernels(scores)
    if kernels is None:
        return reference.causal_softmax_(scores, prefix_B, length_B, scale, window)
    blocks, queries, keys = scores.shape
    nodes, longest = len(prefix_B), int(length_B.max())
    sizes = (blocks, blocks // nodes, queries, longest, keys, window)
    kernels.causal_softmax(scores.data_ptr(), prefix_B.data_ptr(), length_B.data_ptr(), *sizes, scale)
    return scores


def causal_softmax_backward_(grad: Tensor, p: Tensor, scale: float) -> Tensor:
    """Gradient of the scores: scale * p * (grad - sum_k grad p)."""
    kernels = _kernels(grad, p)
    if kernels is None:
        return reference.causal_softmax_backward_(grad, p, scale)
    keys = grad.shape[-1]
    kernels.causal_softmax_backward(grad.data_ptr(), p.data_ptr(), grad.numel() // keys, keys, scale)
    return grad


def online_softmax_(logits_CV: Tensor, top_C: Tensor, sum_C: Tensor, total_C: Tensor) -> tuple[Tensor, Tensor]:
    """Take one block of the vocabulary into a running softmax; (e^(logits - top), rescale).

    `top`, `sum` (of e^(logits - top)) and `total` (of logits), fp32, are updated in place, starting from -inf, 0 and
    0. What was summed over earlier blocks must be multiplied by `rescale`, C.
    """
    kernels = _kernels(logits_CV)
    if kernels is None:
        return reference.online_softmax_(logits_CV, top_C, sum_C, total_C)
    rescale_C = torch.empty_like(top_C)
    pointers = (t.data_ptr() for t in (logits_CV, top_C, sum_C, total_C, rescale_C))
    kernels.online_softmax(*pointers, *logits_CV.shape)
    return logits_CV, rescale_C
