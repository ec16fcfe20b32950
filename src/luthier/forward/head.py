"""The output head on scored tokens only, chunk by chunk: what is read of each distribution without keeping logits.

log pi(y) depends on one hidden state h: its gradient is W[y] - sum_v pi(v) W[v], a vector as long as h. With a frozen
head that vector is formed in the forward pass, whatever the objective does with the log-probabilities later; so no
logits are kept and none are recomputed. The vocabulary goes by in blocks under a running softmax, so that logits stay
in the cache and each weight is read once a chunk. A head that trains needs the outer gradient first, so its chunks
are recomputed in the backward pass. `luthier.forward.statistics` gives what else can be read in the same way.

Shape suffixes: S = scored tokens, C = scored tokens of a chunk, D = hidden size, V = vocabulary (or a block of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.forward.batches import ROUND, ROUND_FROM
from luthier.forward.readouts import LOGP, MEAN_LOGP, of_a_teacher
from luthier.models.blocks.kernels import online_softmax_

CHUNK, BLOCK = 1024, 8192
"""Scored tokens and vocabulary entries at a time: the logits in flight stay in the cache (16 MB in bf16)."""


@dataclass(frozen=True)
class Head:
    """logits = softcap(scale * (W h + b)) / temperature."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0
    temperature: float = 1.0
    """Of the distribution that is read: that which answers were drawn from, where they are learnt from."""

    def logits(self, hidden_CD: Tensor, begin: int = 0, end: int | None = None) -> Tensor:
        """C, V (or the entries [begin, end) of the vocabulary), in the weights' dtype."""
        bias_V = None if self.bias_V is None else self.bias_V[begin:end]
        logits = torch.nn.functional.linear(hidden_CD, self.weight_VD[begin:end], bias_V)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits if self.temperature == 1.0 else logits / self.temperature

    @property
    def plain(self) -> bool:
        """A frozen linear map: the case in which gradients are formed in the forward pass."""
        trains = self.weight_VD.requires_grad or (self.bias_V is not None and self.bias_V.requires_grad)
        return not trains and self.scale == 1.0 and not self.softcap and self.temperature == 1.0


@dataclass(frozen=True)
class Teacher:
    """A teacher's hidden states at the same tokens, and its head."""

    hidden_SD: Tensor
    head: Head


@dataclass(frozen=True)
class Likeliest:
    """A teacher's likeliest tokens at the same places, and what it gives to all others together."""

    ids_SK: Tensor
    """Which tokens; negative: none."""
    logp_SK: Tensor
    """fp32, falling."""
    rest_S: Tensor
    """The log-probability of all others together."""

    @property
    def buckets_SB(self) -> Tensor:
        """All of it, the rest last, so that it sums to one: what was stored was rounded."""
        found_SB = torch.cat([self.logp_SK.masked_fill(self.ids_SK < 0, -torch.inf), self.rest_S[:, None]], 1)
        return found_SB - torch.logsumexp(found_SB, -1, keepdim=True)


def readouts(
    hidden_SD: Tensor,
    target_S: Tensor,
    head: Head,
    asked: Sequence[str] = (LOGP,),
    teacher: Teacher | Likeliest | None = None,
) -> dict[str, Tensor]:
    """What is asked for of each token (`luthier.forward.readouts`), S in fp32 and differentiable; log pi is always
    among it. Raises ValueError where a teacher is asked of and none is there."""
    from luthier.forward import buckets, statistics

    if isinstance(teacher, Likeliest):
        beside = [name for name in asked if not of_a_teacher([name])]
        found = buckets.readouts(hidden_SD, target_S, head, [name for name in asked if name not in beside], teacher)
        return found if {LOGP} >= set(beside) else {**found, **readouts(hidden_SD, target_S, head, beside)}

    plainly = {LOGP, MEAN_LOGP} >= set(asked)
    if not plainly:
        statistics.check(asked, teacher, head)
    if not head.plain:
        return statistics.recomputed(hidden_SD, target_S, head, asked, teacher)
    if not plainly:
        return statistics.formed(hidden_SD, target_S, head, asked, teacher)
    bias = head.bias_V if head.bias_V is not None else hidden_SD.new_empty(0)
    scored = len(target_S)
    filler = -scored % ROUND if scored >= ROUND_FROM else 0
    hidden_SD = torch.nn.functional.pad(hidden_SD, (0, 0, 0, filler))
    target_S = torch.nn.functional.pad(target_S, (0, filler))
    smooth = MEAN_LOGP in asked
    logp_S, mean_S = _FrozenHead.apply(hidden_SD, head.weight_VD, bias, target_S, smooth)  # type: ignore[no-untyped-call]
    return {LOGP: logp_S[:scored], **({MEAN_LOGP: mean_S[:scored]} if smooth else {})}


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_SD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_S: Tensor, smooth: bool
    ) -> tuple[Tensor, Tensor]:
        logp_S = torch.empty(len(target_S), dtype=torch.float32, device=hidden_SD.device)
        mean_S = torch.empty_like(logp_S)
        expected_SD = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        for i in range(0, len(target_S), CHUNK):
            chunk = slice(i, i + CHUNK)
            expected_CD = None if expected_SD is None else expected_SD[chunk]
            found = _statistics(hidden_SD[chunk], weight_VD, bias_V, target_S[chunk], expected_CD)
            logp_S[chunk], mean_S[chunk] = found
        if expected_SD is not None:
            ctx.save_for_backward(expected_SD, weight_VD, target_S)
            ctx.smooth = smooth
        if not smooth:
            ctx.mark_non_differentiable(mean_S)
        return logp_S, mean_S

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        expected_SD, weight_VD, target_S = ctx.saved_tensors
        grad_logp_S, grad_mean_S = grads
        grad_SD = weight_VD.index_select(0, target_S).float().mul_(grad_logp_S[:, None])
        if ctx.smooth:
            grad_SD.addcmul_(expected_SD, -(grad_logp_S + grad_mean_S)[:, None])
            grad_SD += grad_mean_S[:, None] * weight_VD.float().mean(0)
        else:
            grad_SD.addcmul_(expected_SD, -grad_logp_S[:, None])
        return grad_SD.to(expected_SD.dtype), None, None, None, None


def _statistics(
    hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_C: Tensor, expected_CD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(log pi(target), mean over the vocabulary of log pi); the expected row of the head goes to `expected_CD`."""
    top_C, sum_C, total_C, wanted_C = torch.zeros(4, len(hidden_CD), dtype=torch.float32, device=hidden_CD.device)
    top_C.fill_(-torch.inf)
    acc_CD = None if expected_CD is None else torch.zeros_like(hidden_CD, dtype=torch.float32)
    for j in range(0, len(weight_VD), BLOCK):
        block_VD = weight_VD[j : j + BLOCK]
        logits_CV = hidden_CD @ block_VD.T
        if bias_V.numel():
            logits_CV += bias_V[j : j + BLOCK]
        wanted_C = picked(logits_CV, target_C, j, wanted_C)
        terms_CV, rescale_C = online_softmax_(logits_CV, top_C, sum_C, total_C)
        if acc_CD is not None:
            acc_CD.mul_(rescale_C[:, None]).add_(terms_CV @ block_VD)
    if acc_CD is not None and expected_CD is not None:
        expected_CD.copy_(acc_CD.div_(sum_C[:, None]))
    lse_C = top_C + sum_C.log()
    return wanted_C - lse_C, total_C / len(weight_VD) - lse_C


def picked(logits_CV: Tensor, target_C: Tensor, begin: int, before_C: Tensor) -> Tensor:
    """The targets' logits where they lie in this block of the vocabulary, else what was found before: C, fp32.

    It is the very logit that the sum contains: one computed apart could come out larger than the sum.
    """
    place_C = (target_C - begin).clamp(0, logits_CV.shape[1] - 1)
    inside_C = (target_C >= begin) & (target_C < begin + logits_CV.shape[1])
    return torch.where(inside_C, logits_CV.gather(1, place_C[:, None]).squeeze(1).float(), before_C)
