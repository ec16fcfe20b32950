"""The kernels for CUDA, in Triton: a program per row, memory in the tensors' dtype, maths in fp32.

`reference.py` says what each computes; attention's own kernels are not here, FlexAttention has them.
"""

# Triton compiles these functions from their source; annotations other than tl.constexpr mean nothing to it.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm(x, w, out, rstd, n, eps, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    seen = i < n
    v = tl.load(x + row * n + i, seen, 0.0).to(tl.float32)
    r = 1.0 / tl.sqrt(tl.sum(v * v, 0) / n + eps)
    tl.store(rstd + row, r)
    scaled = (v * r).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * n + i, scaled * tl.load(w + i, seen, 0.0).to(tl.float32), seen)


@triton.jit
def _rms_norm_backward(add, g, x, w, rstd, out, n, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    seen, at = i < n, row * n + i
    r = tl.load(rstd + row)
    v = tl.load(x + at, seen, 0.0).to(tl.float32)
    wg = tl.load(w + i, seen, 0.0).to(tl.float32) * tl.load(g + at, seen, 0.0).to(tl.float32)
    c = tl.sum(wg * v, 0) * r * r / n
    tl.store(out + at, tl.load(add + at, seen, 0.0).to(tl.float32) + r * (wg - v * c), seen)


@triton.jit
def _rope(x, cos, sin, heads, half, stride, sign, H: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    h, i = tl.arange(0, H)[:, None], tl.arange(0, BLOCK)[None]
    seen, turned = (h < heads) & (i < half), i < half
    a_at, b_at = row * stride + h * 2 * half + i, row * stride + h * 2 * half + half + i
    angle = row * 2 * half + i
    ca = tl.load(cos + angle, turned, 0.0).to(tl.float32)
    cb = tl.load(cos + angle + half, turned, 0.0).to(tl.float32)
    sa = sign * tl.load(sin + angle, turned, 0.0).to(tl.float32)
    sb = sign * tl.load(sin + angle + half, turned, 0.0).to(tl.float32)
    a, b = tl.load(x + a_at, seen, 0.0).to(tl.float32), tl.load(x + b_at, seen, 0.0).to(tl.float32)
    tl.store(x + a_at, a * ca - b * sa, seen)
    tl.store(x + b_at, b * cb + a * sb, seen)


@triton.jit
def _swiglu(gate_up, out, n, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    seen = i < n
    g = tl.load(gate_up + row * 2 * n + i, seen, 0.0).to(tl.float32)
    u = tl.load(gate_up + row * 2 * n + n + i, seen, 0.0).to(tl.float32)
    silu = (g * tl.sigmoid(g)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * n + i, silu * u, seen)


@triton.jit
def _swiglu_backward(gate_up, grad, n, BLOCK: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    seen = i < n
    g_at, u_at, d_at = row * 2 * n + i, row * 2 * n + n + i, row * n + i
    g = tl.load(gate_up + g_at, seen, 0.0).to(tl.float32)
    u = tl.load(gate_up + u_at, seen, 0.0).to(tl.float32)
    d = tl.load(grad + d_at, seen, 0.0).to(tl.float32)
    sigmoid = tl.sigmoid(g)
    silu = g * sigmoid
    tl.store(gate_up + g_at, d * u * sigmoid * (1 + g * (1 - sigmoid)), seen)
    tl.store(gate_up + u_at, d * silu, seen)
    tl.store(grad + d_at, silu.to(grad.dtype.element_ty).to(tl.float32) * u, seen)


@triton.jit
def _online_softmax(x, top, total_exp, total, rescale, n, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    old = tl.load(top + row)
    high, plain = tl.full((BLOCK,), float("-inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(x + row * n + i, i < n, float("-inf")).to(tl.float32)
        high = tl.maximum(high, v)
        plain += tl.where(i < n, v, 0.0)
    best = tl.maximum(old, tl.max(high, 0))
    added = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        e = tl.exp(tl.load(x + row * n + i, i < n, float("-inf")).to(tl.float32) - best)
        added += e
        tl.store(x + row * n + i, e, i < n)
    scale = tl.exp(old - best)
    tl.store(rescale + row, scale)
    tl.store(total_exp + row, tl.load(total_exp + row) * scale + tl.sum(added, 0))
    tl.store(total + row, tl.load(total + row) + tl.sum(plain, 0))
    tl.store(top + row, best)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(weight * x * rstd, rstd)."""
    rows, n = x_TD.shape
    out_TD, rstd_T = torch.empty_like(x_TD), torch.empty(rows, dtype=torch.float32, device=x_TD.device)
    _rms_norm[(rows,)](x_TD, weight_D, out_TD, rstd_T, n, eps, BLOCK=triton.next_power_of_2(n))
    return out_TD, rstd_T


def rms_norm_backward(add_TD: Tensor, grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, rstd_T: Tensor) -> Tensor:
    """`add` plus the gradient of x."""
    rows, n = x_TD.shape
    out_TD = torch.empty_like(x_TD)
    block = triton.next_power_of_2(n)
    _rms_norm_backward[(rows,)](add_TD, grad_TD.contiguous(), x_TD, weight_D, rstd_T, out_TD, n, BLOCK=block)
    return out_TD


def rope_(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, sign: float) -> Tensor:
    """Rotary embedding in place."""
    rows, heads, size = x_THD.shape
    blocks = {"H": triton.next_power_of_2(heads), "BLOCK": triton.next_power_of_2(size // 2)}
    _rope[(rows,)](x_THD, cos_TD, sin_TD, heads, size // 2, x_THD.stride(0), sign, **blocks)
    return x_THD


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """silu(gate) * up."""
    rows, n = gate_up_TF.shape[0], gate_up_TF.shape[1] // 2
    out_TF = gate_up_TF.new_empty(rows, n)
    _swiglu[(rows, triton.cdiv(n, 1024))](gate_up_TF, out_TF, n, BLOCK=1024)
    return out_TF


def swiglu_backward_(gate_up_TF: Tensor, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of gate and up, the output once more), both written over the arguments."""
    rows, n = grad_TF.shape
    _swiglu_backward[(rows, triton.cdiv(n, 1024))](gate_up_TF, grad_TF, n, BLOCK=1024)
    return gate_up_TF, grad_TF


def online_softmax_(logits_CV: Tensor, top_C: Tensor, sum_C: Tensor, total_C: Tensor) -> tuple[Tensor, Tensor]:
    """(e^(logits - top), rescale), all in place."""
    rescale_C = torch.empty_like(top_C)
    _online_softmax[(len(top_C),)](logits_CV, top_C, sum_C, total_C, rescale_C, logits_CV.shape[1], BLOCK=2048)
    return logits_CV, rescale_C
