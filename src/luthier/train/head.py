"""The output head on scored tokens only, chunk by chunk: log-probabilities without keeping logits.

log pi(y) depends on one hidden state h: its gradient is W[y] - sum_v pi(v) W[v], a vector as long as h. With a frozen
head that vector is formed in the forward pass, while the chunk's probabilities are at hand, whatever the objective
does with the log-probabilities later; so no logits are kept and none are recomputed. A head that trains needs the
outer gradient first, so its chunks are recomputed in the backward pass.

Shape suffixes: S = scored tokens, C = scored tokens of a chunk, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels import log_softmax_

CHUNK = 128
"""Scored tokens at a time; more spill the cache, fewer starve the matrix product."""


@dataclass(frozen=True)
class Head:
    """logits = softcap(scale * (W h + b))."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """C, V, in the weights' dtype."""
        logits = torch.nn.functional.linear(hidden_CD, self.weight_VD, self.bias_V)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    @property
    def plain(self) -> bool:
        """A frozen linear map: the case in which gradients are formed in the forward pass."""
        trains = self.weight_VD.requires_grad or (self.bias_V is not None and self.bias_V.requires_grad)
        return not trains and self.scale == 1.0 and not self.softcap


def log_probabilities(hidden_SD: Tensor, target_S: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """(log pi(target), mean over the vocabulary of log pi), each S in fp32 and differentiable."""
    if head.plain:
        bias = head.bias_V if head.bias_V is not None else hidden_SD.new_empty(0)
        return _FrozenHead.apply(hidden_SD, head.weight_VD, bias, target_S)  # type: ignore[no-untyped-call]
    parts = [
        torch.utils.checkpoint.checkpoint(_chunk, hidden_SD[i : i + CHUNK], target_S[i : i + CHUNK], head, use_reentrant=False)
        for i in range(0, len(target_S), CHUNK)
    ]
    if not parts:
        return hidden_SD.sum(-1).float(), hidden_SD.sum(-1).float()
    return torch.cat([logp for logp, _ in parts]), torch.cat([mean for _, mean in parts])


def _chunk(hidden_CD: Tensor, target_C: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    logits_CV = head.logits(hidden_CD).float()
    logp_CV = torch.log_softmax(logits_CV, -1)
    return logp_CV.gather(1, target_C[:, None]).squeeze(1), logp_CV.mean(-1)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_SD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_S: Tensor) -> tuple[Tensor, Tensor]:
        logp_S = torch.empty(len(target_S), dtype=torch.float32, device=hidden_SD.device)
        mean_S = torch.empty_like(logp_S)
        expected_SD = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        for i in range(0, len(target_S), CHUNK):
            chunk = slice(i, i + CHUNK)
            logits_CV = hidden_SD[chunk] @ weight_VD.T
            if bias_V.numel():
                logits_CV += bias_V
            logp_S[chunk], mean_S[chunk], p_CV = log_softmax_(logits_CV, target_S[chunk])
            if expected_SD is not None:
                torch.mm(p_CV, weight_VD, out=expected_SD[chunk])
        if expected_SD is not None:
            ctx.save_for_backward(expected_SD, weight_VD, target_S)
        return logp_S, mean_S

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        expected_SD, weight_VD, target_S = ctx.saved_tensors
        grad_logp_S, grad_mean_S = grads
        grad_SD = weight_VD.index_select(0, target_S).float().mul_(grad_logp_S[:, None])
        grad_SD.addcmul_(expected_SD, -(grad_logp_S + grad_mean_S)[:, None])
        if grad_mean_S.any():
            grad_SD += grad_mean_S[:, None] * weight_VD.float().mean(0)
        return grad_SD.to(expected_SD.dtype), None, None, None
