"""What is read of whole distributions beside log pi(y): entropy, most probable tokens, divergences from a teacher.

One pass over the vocabulary in blocks under a running softmax; with a frozen head the gradient of each number with
respect to the hidden state h is formed on the way. With z the logits, p = softmax(z), E = sum_v p_v W_v, and t, q those
of a teacher:

    log pi(y)     dh = W_y - E
    mean log pi   dh = mean_v W_v - E
    entropy       H = lse(z) - sum_v p_v z_v             dh = -(sum_v p_v z_v W_v - (sum_v p_v z_v) E)
    jsd           see `luthier.forward.divergence`
    kl            sum_v q_v (t_v - z_v) - lse(t) + lse(z)      dh = E - sum_v q_v W_v
    reverse_kl    m - lse(z) + lse(t), m = sum_v p_v (z_v - t_v)      dh = sum_v p_v (z_v - t_v) W_v - m E

Shape suffixes: S = scored tokens, C = scored tokens of a chunk, D = hidden size, V = vocabulary (or a block of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from luthier.forward import divergence
from luthier.forward.head import BLOCK, CHUNK, Head, Teacher, picked
from luthier.forward.readouts import (
    ENTROPY,
    KL,
    LOGP,
    MEAN_LOGP,
    READOUTS,
    REVERSE_KL,
    TOP,
    TOP_IDS,
    TOP_K,
    beta_of,
    of_a_teacher,
)


def check(asked: Sequence[str], teacher: Teacher | None, head: Head) -> None:
    """Raises ValueError for readouts that there are not, or that need a teacher of the same vocabulary."""
    unknown = sorted(name for name in asked if name not in READOUTS and beta_of(name) is None)
    if unknown:
        raise ValueError(f"no readout is called {unknown[0]!r}; there are {', '.join(READOUTS)}")
    if of_a_teacher(asked):
        if teacher is None:
            raise ValueError(f"{KL}, {REVERSE_KL} and jsd need a teacher")
        ours, theirs = len(head.weight_VD), len(teacher.head.weight_VD)
        if ours != theirs:
            raise ValueError(f"the teacher has {theirs:,} tokens, the model {ours:,}: they cannot be compared")


def formed(
    hidden_SD: Tensor, target_S: Tensor, head: Head, asked: Sequence[str], teacher: Teacher | None
) -> dict[str, Tensor]:
    """The readouts of a frozen, plain head: no logits are kept."""
    names = _differentiable(asked)
    found = _Formed.apply(hidden_SD, target_S, head, names, TOP_K in asked, teacher)  # type: ignore[no-untyped-call]
    result = dict(zip(names, found, strict=False))
    return {**result, TOP_K: found[-2], TOP_IDS: found[-1]} if TOP_K in asked else result


def recomputed(
    hidden_SD: Tensor, target_S: Tensor, head: Head, asked: Sequence[str], teacher: Teacher | None
) -> dict[str, Tensor]:
    """The readouts of a head that trains, or is more than a linear map: chunks are made again in the backward pass."""
    names = _differentiable(asked)
    parts = []
    for i in range(0, len(target_S), CHUNK):
        chunk = slice(i, i + CHUNK)
        beside = None if teacher is None else Teacher(teacher.hidden_SD[chunk], teacher.head)
        args = (hidden_SD[chunk], target_S[chunk], head, names, beside)
        parts.append(checkpoint(_dense, *args, use_reentrant=False))
    if not parts:
        nothing_S = hidden_SD.sum(-1).float()
        found = dict.fromkeys(names, nothing_S)
    else:
        found = {name: torch.cat([part[k] for part in parts]) for k, name in enumerate(names)}
    if TOP_K in asked:
        with torch.no_grad():
            found[TOP_K], found[TOP_IDS] = _top(hidden_SD.detach(), head)
    return found


def _differentiable(asked: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([LOGP, *(name for name in asked if name != TOP_K)]))


def _dense(
    hidden_CD: Tensor, target_C: Tensor, head: Head, names: Sequence[str], teacher: Teacher | None
) -> tuple[Tensor, ...]:
    logp_CV = torch.log_softmax(head.logits(hidden_CD).float(), -1)
    found = {LOGP: logp_CV.gather(1, target_C[:, None]).squeeze(1), MEAN_LOGP: logp_CV.mean(-1)}
    if ENTROPY in names:
        found[ENTROPY] = -(logp_CV.exp() * logp_CV).sum(-1)
    if teacher is not None and of_a_teacher(names):
        with torch.no_grad():
            theirs_CV = torch.log_softmax(teacher.head.logits(teacher.hidden_SD).float(), -1)
        found[KL] = (theirs_CV.exp() * (theirs_CV - logp_CV)).sum(-1)
        found[REVERSE_KL] = (logp_CV.exp() * (logp_CV - theirs_CV)).sum(-1)
        for name in names:
            if (beta := beta_of(name)) is not None:
                found[name] = divergence.of(logp_CV, theirs_CV, beta)
    return tuple(found[name] for name in names)


def _top(hidden_SD: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    parts = []
    for i in range(0, len(hidden_SD), CHUNK):
        logp_CV = torch.log_softmax(head.logits(hidden_SD[i : i + CHUNK]).float(), -1)
        parts.append(logp_CV.topk(min(TOP, logp_CV.shape[1]), -1))
    if not parts:
        nothing = hidden_SD.new_empty((0, min(TOP, len(head.weight_VD))), dtype=torch.float32)
        return nothing, nothing.long()
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


class _Formed(torch.autograd.Function):
    """Numbers of each token and, where h has a gradient, the vector that each number's gradient is."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        target_S: Tensor,
        head: Head,
        names: Sequence[str],
        top: bool,
        teacher: Teacher | None,
    ) -> tuple[Tensor, ...]:
        parts = []
        for i in range(0, len(target_S), CHUNK):
            chunk = slice(i, i + CHUNK)
            beside = None if teacher is None else Teacher(teacher.hidden_SD[chunk], teacher.head)
            sweep = _Sweep(hidden_SD[chunk], target_S[chunk], head, names, beside, top)
            parts.append((sweep.numbers(names), sweep.gradients(names), *sweep.most_probable()))
        if not parts:  # nothing is scored: empty, with a gradient
            parts = [({n: hidden_SD.sum(-1).float() for n in names}, {n: hidden_SD.float() for n in names}, None, None)]
        if ctx.needs_input_grad[0]:
            gradients = [torch.cat([part[1][name] for part in parts]).to(hidden_SD.dtype) for name in names]
            ctx.save_for_backward(*gradients)
        found = tuple(torch.cat([part[0][name] for part in parts]) for name in names)
        if not top:
            return found
        width = min(TOP, len(head.weight_VD))
        empty = hidden_SD.new_empty((0, width), dtype=torch.float32)
        values = torch.cat([empty, *(part[2] for part in parts if part[2] is not None)])
        ids = torch.cat([empty.long(), *(part[3] for part in parts if part[3] is not None)])
        ctx.mark_non_differentiable(values, ids)
        return (*found, values, ids)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        vectors = ctx.saved_tensors
        total_SD = torch.zeros_like(vectors[0], dtype=torch.float32)
        for grad_S, vector_SD in zip(grads, vectors, strict=False):
            total_SD.addcmul_(vector_SD.float(), grad_S[:, None])
        return total_SD.to(vectors[0].dtype), None, None, None, None, None


class _Sweep:
    """One chunk's pass over the vocabulary: sums under a running maximum, divided at the end."""

    def __init__(
        self,
        hidden_CD: Tensor,
        target_C: Tensor,
        head: Head,
        names: Sequence[str],
        teacher: Teacher | None,
        top: bool,
    ) -> None:
        self.head, self.target_C, self.teacher = head, target_C, teacher
        self.model, self.other = _Running(hidden_CD), _Running(hidden_CD)
        self.top = (hidden_CD.new_empty((len(hidden_CD), 0), dtype=torch.float32), target_C.new_empty(len(target_C), 0))
        zeros_C = torch.zeros(len(hidden_CD), dtype=torch.float32, device=hidden_CD.device)
        self.wanted_C, self.sum_C, self.mean_D = zeros_C, zeros_C.clone(), torch.zeros_like(hidden_CD[:1].float())
        for begin in range(0, len(head.weight_VD), BLOCK):
            self._block(hidden_CD, begin, top)
        self.mixed: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name in names:
            if teacher is not None and (beta := beta_of(name)) is not None:
                self.mixed[name] = divergence.swept(hidden_CD, head, teacher, beta, self.model.lse, self.other.lse)

    def _block(self, hidden_CD: Tensor, begin: int, top: bool) -> None:
        block_VD = self.head.weight_VD[begin : begin + BLOCK]
        z_CV = self.head.logits(hidden_CD, begin, begin + BLOCK).float()
        self.wanted_C = picked(z_CV, self.target_C, begin, self.wanted_C)
        self.sum_C = self.sum_C + z_CV.sum(-1)
        self.mean_D = self.mean_D + block_VD.float().sum(0)
        t_CV = None
        if self.teacher is not None:
            t_CV = self.teacher.head.logits(self.teacher.hidden_SD, begin, begin + BLOCK).float()
            self.other.add(t_CV, t_CV - z_CV, block_VD)
        self.model.add(z_CV, z_CV if t_CV is None else z_CV - t_CV, block_VD, z_CV)
        if top:
            values = torch.cat([self.top[0], z_CV], 1)
            ids = torch.arange(begin, begin + z_CV.shape[1], device=z_CV.device).expand(len(z_CV), -1)
            best = values.topk(min(TOP, values.shape[1]), -1)
            self.top = best.values, torch.cat([self.top[1], ids], 1).gather(1, best.indices)

    def numbers(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Each number, C."""
        model, lse_C = self.model, self.model.lse
        found = {LOGP: self.wanted_C - lse_C, MEAN_LOGP: self.sum_C / len(self.head.weight_VD) - lse_C}
        found[ENTROPY] = lse_C - model.mean(model.logit_C)
        if self.teacher is not None:
            found[KL] = self.other.mean(self.other.other_C) - self.other.lse + lse_C
            found[REVERSE_KL] = model.mean(model.other_C) - lse_C + self.other.lse
        found |= {name: mixed[0] for name, mixed in self.mixed.items()}
        return {name: found[name] for name in names}

    def gradients(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Each number's gradient with respect to the hidden state, C D in fp32."""
        model, expected_CD = self.model, self.model.mean(self.model.weight_CD)
        found: dict[str, Tensor] = {}
        for name in names:
            if name == LOGP:
                found[name] = self.head.weight_VD.index_select(0, self.target_C).float() - expected_CD
            elif name == MEAN_LOGP:
                found[name] = self.mean_D / len(self.head.weight_VD) - expected_CD
            elif name == ENTROPY:
                mean_C1 = model.mean(model.logit_C)[:, None]
                found[name] = mean_C1 * expected_CD - model.mean(model.logit_weight_CD)
            elif name in self.mixed:
                _, slope_CD, slope_C = self.mixed[name]
                found[name] = slope_CD - slope_C[:, None] * expected_CD
            elif name == KL:
                found[name] = expected_CD - self.other.mean(self.other.weight_CD)
            else:
                found[name] = model.mean(model.other_weight_CD) - model.mean(model.other_C)[:, None] * expected_CD
        return found

    def most_probable(self) -> tuple[Tensor | None, Tensor | None]:
        """Log-probabilities and ids of the most probable tokens, where they were asked for."""
        values, ids = self.top
        return (values - self.model.lse[:, None], ids) if values.shape[1] else (None, None)


class _Running:
    """Sums of e^z times 1, x, W, z, z W and x W over the vocabulary so far, under the largest z so far."""

    def __init__(self, hidden_CD: Tensor) -> None:
        zeros_C = torch.zeros(len(hidden_CD), dtype=torch.float32, device=hidden_CD.device)
        zeros_CD = torch.zeros(hidden_CD.shape, dtype=torch.float32, device=hidden_CD.device)
        self.top_C = torch.full_like(zeros_C, -torch.inf)
        self.one_C = self.other_C = self.logit_C = zeros_C
        self.weight_CD = self.other_weight_CD = self.logit_weight_CD = zeros_CD

    def add(self, z_CV: Tensor, other_CV: Tensor, weight_VD: Tensor, logit_CV: Tensor | None = None) -> None:
        """One more block: its logits, the other factor, and the head's weights."""
        top_C = torch.maximum(self.top_C, z_CV.max(-1).values)
        scale_C = (self.top_C - top_C).exp()
        e_CV, weight_VD = (z_CV - top_C[:, None]).exp(), weight_VD.float()
        self.top_C = top_C
        self.one_C = self.one_C * scale_C + e_CV.sum(-1)
        self.other_C = self.other_C * scale_C + (e_CV * other_CV).sum(-1)
        self.weight_CD = self.weight_CD * scale_C[:, None] + e_CV @ weight_VD
        if logit_CV is not None:
            self.logit_C = self.logit_C * scale_C + (e_CV * logit_CV).sum(-1)
            self.logit_weight_CD = self.logit_weight_CD * scale_C[:, None] + (e_CV * logit_CV) @ weight_VD
            self.other_weight_CD = self.other_weight_CD * scale_C[:, None] + (e_CV * other_CV) @ weight_VD

    def mean(self, sums: Tensor) -> Tensor:
        """A sum over the distribution."""
        return sums / (self.one_C if sums.ndim == 1 else self.one_C[:, None])

    @property
    def lse(self) -> Tensor:
        """log sum e^z."""
        return self.top_C + self.one_C.log()
