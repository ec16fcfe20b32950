"""The kernels in plain torch: what they compute, in every dtype and on every device.

Shape suffixes: B = nodes of a bucket, R = rows of scores of a node (key heads x query group x queries), K = keys,
C = tokens of a chunk, V = vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible(scores: Tensor, prefix_B: Tensor, length_B: Tensor, window: int) -> Tensor:
    """Which keys each query sees: B, 1, L, K. Padding queries see what the last real one sees."""
    count = prefix_B.shape[0]
    longest = int(length_B.max())
    device = scores.device
    query = torch.minimum(torch.arange(longest)[None], length_B[:, None].long() - 1) + prefix_B[:, None]
    key = torch.arange(scores.shape[-1])
    seen = key[None, None] <= query[:, :, None]
    if window:
        seen &= key[None, None] > query[:, :, None] - window
    return seen.view(count, 1, longest, -1).to(device)


def causal_softmax_(scores: Tensor, prefix_B: Tensor, length_B: Tensor, scale: float, window: int) -> Tensor:
    """softmax(scale * scores) over the keys that a query sees. (B Hk), (G L), K; may overwrite `scores`."""
    count = prefix_B.shape[0]
    seen = visible(scores, prefix_B, length_B, window)
    s = scores.view(count, -1, seen.shape[2], scores.shape[-1])
    p = torch.softmax(s.float().mul_(scale).masked_fill_(~seen, float("-inf")), dim=-1)
    return p.to(scores.dtype).view_as(scores)


def causal_softmax_backward_(grad: Tensor, p: Tensor, scale: float) -> Tensor:
    """Gradient of the scores: scale * p * (grad - sum_k grad p). May overwrite `grad`."""
    g = grad.float()
    return (p.float() * (g - (g * p.float()).sum(-1, keepdim=True)) * scale).to(grad.dtype)


def log_softmax_(logits_CV: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probability of the target, mean log-probability over the vocabulary, probabilities); may overwrite logits."""
    logits = logits_CV.float()
    lse_C = torch.logsumexp(logits, -1)
    logp_C = logits.gather(1, target_C[:, None]).squeeze(1) - lse_C
    mean_C = logits.mean(-1) - lse_C
    return logp_C, mean_C, torch.exp(logits - lse_C[:, None]).to(logits_CV.dtype)
