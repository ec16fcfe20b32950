"""A teacher of whom only the likeliest tokens are known: the divergences from it, all other tokens as one bucket.

Of K tokens both log-probabilities are known, of the rest what each model gives to all of it together, so a divergence
is a sum over K + 1 buckets. It is never more than the one over the whole vocabulary (arXiv:1503.02531 has the whole
one), and the very same where the K tokens are the vocabulary. With p the model's distribution, E = sum_v p_v W_v and
R = sum_v r_v W_v the same over the rest alone, its distribution r:

    log p_k       dh = W_k - E
    log p_rest    dh = R - E

so that one pass over the vocabulary gives R, and no logits are kept. Which divergence is taken is arithmetic on top.

Shape suffixes: S = scored tokens, C = scored tokens of a chunk, K = tokens of the teacher's that are known, B = K + 1
buckets, D = hidden size, V = vocabulary (or a block of it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from luthier.forward.head import BLOCK, CHUNK, Head, Likeliest, picked
from luthier.forward.readouts import KL, LOGP, REVERSE_KL, beta_of

NONE = -1
"""The id of a place that holds no token: a row may know fewer of some of its tokens."""
GATHERED = 64
"""Scored tokens whose rows of the head are gathered at a time: some 10 MB."""


# a teacher is read
def likeliest(hidden_SD: Tensor, head: Head, count: int, known: int) -> Likeliest:
    """The `count` likeliest tokens of each distribution, falling. Tokens from `known` on, which the other model does
    not have, are never among them, and count to the rest."""
    return _joined(
        [_likeliest(_blocks(hidden_SD[i : i + CHUNK], head), count, known) for i in range(0, len(hidden_SD), CHUNK)],
        hidden_SD.device,
        min(count, known),
    )


def likeliest_of(logits_SV: Tensor, count: int, known: int) -> Likeliest:
    """The same of logits that are there already, in fp32."""
    return _likeliest(iter([(0, logits_SV)]), count, known)


def _blocks(hidden_CD: Tensor, head: Head) -> Iterator[tuple[int, Tensor]]:
    for begin in range(0, len(head.weight_VD), BLOCK):
        yield begin, head.logits(hidden_CD, begin, begin + BLOCK).float()


def _likeliest(blocks: Iterator[tuple[int, Tensor]], count: int, known: int) -> Likeliest:
    """One pass: the best so far, and log sum e^z of all that fell out."""
    best_CK = ids_CK = rest_C = None
    for begin, z_CV in blocks:
        ids_CV = torch.arange(begin, begin + z_CV.shape[1], device=z_CV.device).expand(len(z_CV), -1)
        beyond_C = torch.logsumexp(z_CV[:, max(known - begin, 0) :], -1) if begin + z_CV.shape[1] > known else None
        z_CV, ids_CV = z_CV[:, : max(known - begin, 0)], ids_CV[:, : max(known - begin, 0)]
        if best_CK is not None and ids_CK is not None:
            z_CV, ids_CV = torch.cat([best_CK, z_CV], 1), torch.cat([ids_CK, ids_CV], 1)
        found = z_CV.topk(min(count, z_CV.shape[1]), -1)
        best_CK, ids_CK = found.values, ids_CV.gather(1, found.indices)
        left_C = torch.logsumexp(z_CV.scatter(1, found.indices, -math.inf), -1)
        for more_C in (left_C, beyond_C):
            if more_C is not None:
                rest_C = more_C if rest_C is None else torch.logaddexp(rest_C, more_C)
    assert best_CK is not None and ids_CK is not None and rest_C is not None, "the vocabulary is empty"
    lse_C = torch.logaddexp(torch.logsumexp(best_CK, -1), rest_C)
    return Likeliest(ids_CK, best_CK - lse_C[:, None], rest_C - lse_C)


def _joined(parts: Sequence[Likeliest], device: torch.device, width: int) -> Likeliest:
    if not parts:  # nothing is scored
        nothing = torch.empty((0, width), device=device)
        return Likeliest(nothing.long(), nothing, nothing.sum(-1))
    return Likeliest(*(torch.cat([getattr(part, name) for part in parts]) for name in ("ids_SK", "logp_SK", "rest_S")))


# a model is compared with it
def readouts(
    hidden_SD: Tensor, target_S: Tensor, head: Head, names: Sequence[str], teacher: Likeliest
) -> dict[str, Tensor]:
    """log pi of the tokens that stand there, and the divergences by name: S, fp32, differentiable."""
    ids_SK = teacher.ids_SK
    if head.plain:
        logp_S, at_SK, rest_S = _Formed.apply(hidden_SD, target_S, head, ids_SK)  # type: ignore[no-untyped-call]
    else:
        parts = [
            checkpoint(_dense, hidden_SD[i : i + CHUNK], target_S[i : i + CHUNK], head, ids_SK[i : i + CHUNK],
                       use_reentrant=False)
            for i in range(0, len(target_S), CHUNK)
        ]  # fmt: skip
        parts = parts or [_dense(hidden_SD, target_S, head, ids_SK)]
        logp_S, at_SK, rest_S = (torch.cat([part[k] for part in parts]) for k in range(3))
    return {LOGP: logp_S, **_divergences(at_SK, rest_S, names, teacher)}


def readouts_of(logp_SV: Tensor, names: Sequence[str], teacher: Likeliest) -> dict[str, Tensor]:
    """The divergences of distributions that are there whole, as log-probabilities."""
    return _divergences(*_buckets(logp_SV, teacher.ids_SK), names, teacher)


def _divergences(at_SK: Tensor, rest_S: Tensor, names: Sequence[str], teacher: Likeliest) -> dict[str, Tensor]:
    model_SB = torch.cat([at_SK, rest_S[:, None]], 1)
    return {name: divergence(name)(model_SB, teacher.buckets_SB) for name in names if name != LOGP}


def divergence(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """By the name of its readout, a function of the model's and the teacher's log-probabilities of all buckets, B.
    Raises ValueError for a readout that is no divergence from a teacher."""
    if name == KL:
        return lambda model_SB, teacher_SB: _kl(teacher_SB, model_SB)
    if name == REVERSE_KL:
        return _kl
    beta = beta_of(name)
    if beta is None:
        raise ValueError(f"{name!r} is no divergence from a teacher")
    return lambda model_SB, teacher_SB: _jsd(model_SB, teacher_SB, beta)


def _kl(p_SB: Tensor, q_SB: Tensor) -> Tensor:
    """sum p (log p - log q); a bucket to which p gives nothing adds nothing, whatever q gives."""
    nothing_SB = p_SB.isneginf()
    p_SB, q_SB = p_SB.masked_fill(nothing_SB, 0.0), q_SB.masked_fill(nothing_SB, 0.0)
    return (p_SB.exp() * (p_SB - q_SB)).masked_fill(nothing_SB, 0.0).sum(-1)


def _jsd(model_SB: Tensor, teacher_SB: Tensor, beta: float) -> Tensor:
    nothing_SB = model_SB.isneginf() & teacher_SB.isneginf()
    ours_SB, theirs_SB = model_SB.masked_fill(nothing_SB, 0.0), teacher_SB.masked_fill(nothing_SB, 0.0)
    mixed_SB = torch.logaddexp(ours_SB + math.log1p(-beta), theirs_SB + math.log(beta))
    return beta * _kl(teacher_SB, mixed_SB) + (1 - beta) * _kl(model_SB, mixed_SB)


def _buckets(logp_SV: Tensor, ids_SK: Tensor) -> tuple[Tensor, Tensor]:
    """log p of the tokens named, S K, and of all others together, S."""
    absent_SK = ids_SK < 0
    at_SK = logp_SV.gather(1, ids_SK.clamp(min=0)).masked_fill(absent_SK, -math.inf)
    named_SV = torch.zeros_like(logp_SV, dtype=torch.bool)
    row, place = (~absent_SK).nonzero(as_tuple=True)
    named_SV[row, ids_SK[row, place]] = True
    all_S1 = named_SV.all(-1, keepdim=True)  # a sum over nothing has no gradient
    rest_S = torch.logsumexp(logp_SV.masked_fill(named_SV & ~all_S1, -math.inf), -1)
    return at_SK, rest_S.masked_fill(all_S1[:, 0], -math.inf)


def _dense(hidden_CD: Tensor, target_C: Tensor, head: Head, ids_CK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logp_CV = torch.log_softmax(head.logits(hidden_CD).float(), -1)
    return logp_CV.gather(1, target_C[:, None]).squeeze(1), *_buckets(logp_CV, ids_CK)


class _Formed(torch.autograd.Function):
    """log pi(y), log p_k and log p_rest of a frozen, plain head: S, S K, S. Kept for the way back are E and R."""

    @staticmethod
    def forward(
        ctx: Any, hidden_SD: Tensor, target_S: Tensor, head: Head, ids_SK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logp_S = torch.empty(len(target_S), dtype=torch.float32, device=hidden_SD.device)
        at_SK, rest_S = logp_S.new_empty(ids_SK.shape), torch.empty_like(logp_S)
        expected_SD, of_rest_SD = torch.empty_like(hidden_SD), torch.empty_like(hidden_SD)
        for i in range(0, len(target_S), CHUNK):
            c = slice(i, i + CHUNK)
            logp_S[c], at_SK[c], rest_S[c], of_rest_CD = _swept(hidden_SD[c], target_S[c], head, ids_SK[c])
            of_rest_SD[c] = of_rest_CD
            expected_SD[c] = _summed(ids_SK[c], at_SK[c].exp(), head) + rest_S[c, None].exp() * of_rest_CD
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(expected_SD, of_rest_SD, target_S, ids_SK)
            ctx.head = head
        return logp_S, at_SK, rest_S

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        expected_SD, of_rest_SD, target_S, ids_SK = ctx.saved_tensors
        logp_S, at_SK, rest_S = grads
        grad_SD = ctx.head.weight_VD.index_select(0, target_S).float() * logp_S[:, None]
        grad_SD += _summed(ids_SK, at_SK, ctx.head)
        grad_SD.addcmul_(of_rest_SD.float(), rest_S[:, None])
        grad_SD.addcmul_(expected_SD.float(), -(logp_S + at_SK.sum(-1) + rest_S)[:, None])
        return grad_SD.to(expected_SD.dtype), None, None, None


def _swept(hidden_CD: Tensor, target_C: Tensor, head: Head, ids_CK: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log pi(y), C; log p_k, C K; log p_rest, C; R, C D. The named tokens are taken out of the running sum, so that
    what is left of a distribution that they nearly exhaust is not a small difference of large numbers."""
    wanted_C, one_C, top_C = torch.zeros(3, len(hidden_CD), dtype=torch.float32, device=hidden_CD.device)
    top_C.fill_(-math.inf)
    at_CK = torch.full(ids_CK.shape, -math.inf, dtype=torch.float32, device=hidden_CD.device)
    acc_CD = torch.zeros(hidden_CD.shape, dtype=torch.float32, device=hidden_CD.device)
    for begin in range(0, len(head.weight_VD), BLOCK):
        z_CV = head.logits(hidden_CD, begin, begin + BLOCK).float()
        wanted_C = picked(z_CV, target_C, begin, wanted_C)
        row, place = ((ids_CK >= begin) & (ids_CK < begin + z_CV.shape[1])).nonzero(as_tuple=True)
        column = ids_CK[row, place] - begin
        at_CK[row, place] = z_CV[row, column]
        z_CV[row, column] = -math.inf
        new_C = torch.maximum(top_C, z_CV.max(-1).values)
        base_C = new_C.masked_fill(new_C.isneginf(), 0.0)  # nothing but named tokens so far
        scale_C = (top_C - base_C).exp()
        e_CV = z_CV.sub_(base_C[:, None]).exp_()
        one_C = one_C * scale_C + e_CV.sum(-1)
        acc_CD.mul_(scale_C[:, None]).add_(e_CV @ head.weight_VD[begin : begin + BLOCK].float())
        top_C = new_C
    rest_C = top_C + one_C.log()
    lse_C = torch.logsumexp(torch.cat([at_CK, rest_C[:, None]], 1), -1)
    of_rest_CD = acc_CD / one_C.masked_fill(one_C == 0, 1.0)[:, None]
    return wanted_C - lse_C, at_CK - lse_C[:, None], rest_C - lse_C, of_rest_CD


def _summed(ids_SK: Tensor, factor_SK: Tensor, head: Head) -> Tensor:
    """sum_k factor_k W_k: S, D in fp32. A place without a token adds nothing."""
    factor_SK = factor_SK.masked_fill(ids_SK < 0, 0.0)
    parts = [
        torch.bmm(factor_SK[i : i + GATHERED, None], head.weight_VD[ids_SK[i : i + GATHERED].clamp(min=0)].float())
        for i in range(0, len(ids_SK), GATHERED)
    ]
    if not parts:
        return torch.zeros((0, head.weight_VD.shape[1]), dtype=torch.float32, device=ids_SK.device)
    return torch.cat(parts).squeeze(1)
