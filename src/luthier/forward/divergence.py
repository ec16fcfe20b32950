"""The generalised Jensen-Shannon divergence from a teacher (arXiv:2306.13649, eq. 1).

One pass over the vocabulary cannot give it: the mixture needs both distributions whole, so that a second pass follows
the one that has summed them up.

With p the model's distribution, q the teacher's, m = b q + (1 - b) p:

    D = sum_v b q_v log(q_v / m_v) + (1 - b) p_v log(p_v / m_v)
    dD/dp_v = (1 - b) log(p_v / m_v) =: g_v            dh = sum_v p_v g_v W_v - (sum_v p_v g_v) sum_v p_v W_v

Shape suffixes: C = scored tokens of a chunk, D = hidden size, V = vocabulary (or a block of it).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from luthier.forward.head import BLOCK, Head, Teacher


def of(model_CV: Tensor, teacher_CV: Tensor, beta: float) -> Tensor:
    """The divergence of whole distributions, given as log-probabilities: C."""
    mixed_CV = _mixture(model_CV, teacher_CV, beta)
    theirs_C = (teacher_CV.exp() * (teacher_CV - mixed_CV)).sum(-1)
    return beta * theirs_C + (1 - beta) * (model_CV.exp() * (model_CV - mixed_CV)).sum(-1)


def swept(
    hidden_CD: Tensor, head: Head, teacher: Teacher, beta: float, lse_C: Tensor, teacher_lse_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The divergence, C; and of its gradient sum_v p_v g_v W_v, C D, and sum_v p_v g_v, C. `lse_C`: log sum e^z of the
    model's logits and of the teacher's."""
    found_C = torch.zeros_like(lse_C)
    slope_C = torch.zeros_like(lse_C)
    slope_CD = torch.zeros(hidden_CD.shape, dtype=torch.float32, device=hidden_CD.device)
    for begin in range(0, len(head.weight_VD), BLOCK):
        end = begin + BLOCK
        model_CV = head.logits(hidden_CD, begin, end).float() - lse_C[:, None]
        teacher_CV = teacher.head.logits(teacher.hidden_SD, begin, end).float() - teacher_lse_C[:, None]
        above_CV = model_CV - _mixture(model_CV, teacher_CV, beta)
        term_CV = (1 - beta) * model_CV.exp() * above_CV
        found_C = found_C + of(model_CV, teacher_CV, beta)
        slope_C = slope_C + term_CV.sum(-1)
        slope_CD = slope_CD + term_CV @ head.weight_VD[begin:end].float()
    return found_C, slope_CD, slope_C


def _mixture(model_CV: Tensor, teacher_CV: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(model_CV + math.log1p(-beta), teacher_CV + math.log(beta))
