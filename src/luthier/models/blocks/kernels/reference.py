"""The kernels in plain torch: what they compute, in every dtype and on every device.

Shape suffixes: B = segments of a bucket, R = rows of scores of a segment (key heads x query group x queries), K = keys,
C = tokens of a chunk, V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible(scores: Tensor, prefix_B: Tensor, length_B: Tensor, longest: int, window: int) -> Tensor:
    """Which keys each query sees: B, 1, L, K. Padding queries see what the last real one sees."""
    count = prefix_B.shape[0]
    device = scores.device
    query = torch.minimum(torch.arange(longest)[None], length_B[:, None].long() - 1) + prefix_B[:, None]
    key = torch.arange(scores.shape[-1])
    seen = key[None, None] <= query[:, :, None]
    if window:
        seen &= key[None, None] > query[:, :, None] - window
    return seen.view(count, 1, longest, -1).to(device)


def fold(x_THD: Tensor, place_BL: Tensor, heads: int) -> Tensor:
    """Tokens to segments, with the queries of one key head together: (B Hk), (G L), D; place -1 gives zero."""
    count, longest = place_BL.shape
    x = x_THD.index_select(0, place_BL.flatten().clamp(min=0)) * (place_BL.view(-1, 1, 1) >= 0)
    x = x.view(count, longest, heads, -1, x.shape[-1]).permute(0, 2, 3, 1, 4)
    return x.reshape(count * heads, -1, x.shape[-1])


def unfold_(out_THD: Tensor, x: Tensor, place_BL: Tensor, heads: int) -> None:
    """Undo `fold`, for places that occur once."""
    count, longest = place_BL.shape
    by_token = x.view(count, heads, -1, longest, x.shape[-1]).permute(0, 3, 1, 2, 4)
    real = place_BL.flatten() >= 0
    out_THD[place_BL.flatten()[real]] = by_token.reshape(count * longest, *out_THD.shape[1:])[real]


def unfold_add_(sum_TGD: Tensor, x: Tensor, place_BL: Tensor) -> None:
    """Undo `fold` of key-like tensors, adding up where segments share places."""
    count, longest = place_BL.shape
    flat = x.view(count, -1, longest, x.shape[-1]).transpose(1, 2).reshape(count * longest, *sum_TGD.shape[1:])
    real = place_BL.flatten() >= 0
    sum_TGD.index_add_(0, place_BL.flatten()[real], flat[real].to(sum_TGD.dtype))


def causal_softmax_(
    scores: Tensor, prefix_B: Tensor, length_B: Tensor, longest: int, scale: float, window: int
) -> Tensor:
    """softmax(scale * scores) over the keys that a query sees. (B Hk), (G L), K; may overwrite `scores`."""
    count = prefix_B.shape[0]
    seen = visible(scores, prefix_B, length_B, longest, window)
    s = scores.view(count, -1, seen.shape[2], scores.shape[-1])
    p = torch.softmax(s.float().mul_(scale).masked_fill_(~seen, float("-inf")), dim=-1)
    return p.to(scores.dtype).view_as(scores)


def causal_softmax_backward_(grad: Tensor, p: Tensor, scale: float) -> Tensor:
    """Gradient of the scores: scale * p * (grad - sum_k grad p). May overwrite `grad`."""
    g = grad.float()
    return (p.float() * (g - (g * p.float()).sum(-1, keepdim=True)) * scale).to(grad.dtype)


def online_softmax_(logits_CV: Tensor, top_C: Tensor, sum_C: Tensor, total_C: Tensor) -> tuple[Tensor, Tensor]:
    """(e^(logits - top), rescale); top, sum and total are updated in place."""
    logits = logits_CV.float()
    high_C = torch.maximum(top_C, logits.amax(-1))
    terms = torch.exp(logits - high_C[:, None])
    rescale_C = torch.exp(top_C - high_C)
    sum_C.mul_(rescale_C).add_(terms.sum(-1))
    total_C += logits.sum(-1)
    top_C.copy_(high_C)
    return terms.to(logits_CV.dtype), rescale_C


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(weight * x * rstd, rstd)."""
    x = x_TD.float()
    rstd_T = torch.rsqrt(x.square().mean(-1) + eps)
    return weight_D * (x * rstd_T[:, None]).to(x_TD.dtype), rstd_T


def rms_norm_backward(add_TD: Tensor, grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, rstd_T: Tensor) -> Tensor:
    """add + rstd * (w g - x rstd^2 mean(w g x))."""
    x, wg, rstd = x_TD.float(), (weight_D * grad_TD).float(), rstd_T[:, None]
    return add_TD + (rstd * (wg - x * rstd.square() * (wg * x).mean(-1, keepdim=True))).to(add_TD.dtype)


def rope_(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, sign: float) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) for the halves a, b of each head, in place."""
    a, b = x_THD.chunk(2, dim=-1)
    cos_a, cos_b = cos_TD[:, None].chunk(2, dim=-1)
    sin_a, sin_b = (sign * sin_TD[:, None]).chunk(2, dim=-1)
    x_THD.copy_(torch.cat([a * cos_a - b * sin_a, b * cos_b + a * sin_b], dim=-1))
    return x_THD


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """silu(gate) * up."""
    gate, up = gate_up_TF.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def swiglu_backward_(gate_up_TF: Tensor, grad_TF: Tensor) -> tuple[Tensor, Tensor]:
    """(gradients of gate and up side by side, the output once more)."""
    gate, up = gate_up_TF.chunk(2, dim=-1)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    grad_gate = grad_TF * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([grad_gate, grad_TF * silu], dim=-1), silu * up
