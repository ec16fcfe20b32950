"""Gradients in the mean, by enumerating every response there is: a policy small enough has few.

Shapes: A = actions (tokens), Y = responses, K = prefixes.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.objectives.rolled import rollout
from torch import Tensor

from luthier.objectives import OBJECTIVES
from luthier.objectives.credit import CREDITS, Judged
from luthier.objectives.online import NashMD
from luthier.objectives.policy.gradient import PolicyGradient

ACTIONS = 3
REWARDS = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
START = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64)


def logits() -> Tensor:
    return START.clone().requires_grad_()


# a bandit: one token, three actions
def truth() -> Tensor:
    """The gradient of the expected reward."""
    z_A = logits()
    return torch.autograd.grad((z_A.softmax(0) * REWARDS).sum(), z_A)[0]


def expected(objective: PolicyGradient, n: int) -> Tensor:
    """Minus the gradient of its loss on a group of n, in the mean over all groups."""
    z_A = logits()
    logp_A, total = z_A.log_softmax(0), torch.zeros(ACTIONS, dtype=torch.float64)
    for drawn in itertools.product(range(ACTIONS), repeat=n):
        (worths,) = objective.estimator([[Judged(float(REWARDS[a]), 1) for a in drawn]])
        rows = rollout(
            [logp_A[a].reshape(1) for a in drawn], advantage=[worth.advantage_T.tolist() for worth in worths]
        )
        (one,) = torch.autograd.grad(objective.loss(rows).mean(), z_A, retain_graph=True)
        total -= logp_A[list(drawn)].sum().exp().detach() * one
    return total


def test_leave_one_out_is_unbiased() -> None:
    for n in (2, 3):
        torch.testing.assert_close(expected(OBJECTIVES.build("rloo", {"kl": 0}), n), truth(), atol=1e-12, rtol=0)


def test_a_rollouts_mean_of_the_others_is_unbiased() -> None:
    torch.testing.assert_close(expected(OBJECTIVES.build("reinforce", {}), 3), truth(), atol=1e-12, rtol=0)


def test_the_groups_mean_costs_one_in_n_and_its_spread_turns_the_gradient() -> None:
    dr_grpo = expected(OBJECTIVES.build("dr_grpo", {"length": 1}), 3)
    torch.testing.assert_close(dr_grpo, 2 / 3 * truth(), atol=1e-12, rtol=0)
    grpo = expected(OBJECTIVES.build("grpo", {"kl": 0}), 3)
    cosine = torch.nn.functional.cosine_similarity(grpo, truth(), dim=0)
    assert 0.98 < cosine < 0.99999


# responses of two tokens: the second one's chances hang on the first
PREFIXES = 1 + ACTIONS
REF = torch.randn(PREFIXES, ACTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tree() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(PREFIXES, ACTIONS, dtype=torch.float64, generator=draw).requires_grad_()


def tokens(z_KA: Tensor) -> Tensor:
    """log pi of both tokens of every response: Y x 2."""
    logp_KA = z_KA.log_softmax(1)
    pairs = itertools.product(range(ACTIONS), repeat=2)
    return torch.stack([torch.stack([logp_KA[0, a], logp_KA[1 + a, b]]) for a, b in pairs])


def in_the_mean(estimator: Any, *, both: bool = True) -> Tensor:
    """The gradient of a penalty on all responses, each as often as the policy draws it."""
    z_KA = tree()
    logp_Y2, ref_Y2 = tokens(z_KA), tokens(REF)
    if not both:
        logp_Y2, ref_Y2 = (torch.stack([one[::ACTIONS, 0]], 1) for one in (logp_Y2, ref_Y2))
    rows = rollout(list(logp_Y2), ref=ref_Y2.tolist())
    loss_Y = PolicyGradient(kl=1.0, kl_by=estimator, unit="constant").loss(rows)
    return torch.autograd.grad((logp_Y2.sum(1).exp().detach() * loss_Y).sum(), z_KA)[0]


def divergences(*, reverse: bool, sway: bool, both: bool = True) -> Tensor:
    """The gradient of KL at each prefix, by how often the policy comes there; `sway`: that it may come there more or
    less often counts, too."""
    z_KA = tree()
    logp_KA, ref_KA = z_KA.log_softmax(1), REF.log_softmax(1)
    one, other = (logp_KA, ref_KA) if reverse else (ref_KA, logp_KA)
    each_K = (one.exp() * (one - other)).sum(1)
    often_K = torch.cat([torch.ones(1, dtype=torch.float64), logp_KA[0].exp()])
    if not both:
        often_K = torch.tensor([1.0, *[0.0] * ACTIONS], dtype=torch.float64)
    return torch.autograd.grad(((often_K if sway else often_K.detach()) * each_K).sum(), z_KA)[0]


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-12, rtol=0)


def test_k1_as_a_score_function_is_the_gradient_of_the_whole_responses_divergence() -> None:
    assert close(in_the_mean("k1"), divergences(reverse=True, sway=True))


def test_k1_taken_for_a_loss_has_no_gradient() -> None:
    """Why it is not that here: the mean of d log pi is 0."""
    z_KA = tree()
    logp_Y2 = tokens(z_KA)
    naive = (logp_Y2.sum(1).exp().detach() * (logp_Y2 - tokens(REF)).sum(1)).sum()
    assert close(torch.autograd.grad(naive, z_KA)[0], torch.zeros_like(z_KA))


def test_k2_and_k3_by_the_ratio_are_the_reverse_divergence_at_each_token() -> None:
    for estimator in ("k2", "k3_ratio"):
        assert close(in_the_mean(estimator), divergences(reverse=True, sway=False)), estimator
        assert not close(in_the_mean(estimator), divergences(reverse=True, sway=True)), "it does not plan ahead"


def test_k3_is_the_forward_divergence_at_each_token() -> None:
    assert close(in_the_mean("k3"), divergences(reverse=False, sway=False))


def test_of_single_tokens_all_reverse_ones_are_the_same() -> None:
    wanted = divergences(reverse=True, sway=True, both=False)
    for estimator in ("k1", "k2", "k3_ratio"):
        assert close(in_the_mean(estimator, both=False), wanted), estimator


def test_what_later_policies_draw_from_an_older_one_keeps_k1_right() -> None:
    """The old policy drew: each response is as likely as it was, and its ratio brings it to what it is now."""
    old_A, z_A = torch.tensor([0.5, 0.1, -0.3], dtype=torch.float64).log_softmax(0), logits()
    logp_A, ref_A = z_A.log_softmax(0), REF[0].log_softmax(0)
    rows = rollout(list(logp_A[:, None]), ref=ref_A[:, None].tolist(), old_logp=old_A[:, None].tolist())
    loss_A = PolicyGradient(kl=1.0, kl_by="k1").loss(rows)
    (found,) = torch.autograd.grad((old_A.exp() * loss_A).sum(), z_A, retain_graph=True)
    (wanted,) = torch.autograd.grad((logp_A.exp() * (logp_A - ref_A)).sum(), z_A)
    assert close(found, wanted)


# Nash-MD: a game of two actions, of which the second is preferred to the first with probability 0.8
def nash(objective: NashMD, start: float, steps: int = 120) -> tuple[float, float]:
    """Where gradient steps end, and what the rivals' mixture ended at: the log-odds of the second action."""
    reference = torch.tensor([0.0, -0.7], dtype=torch.float64).log_softmax(0)
    preferred = torch.tensor([[0.5, 0.2], [0.8, 0.5]], dtype=torch.float64)
    z = torch.tensor([0.0, start], dtype=torch.float64, requires_grad=True)
    rival = reference
    for _ in range(steps):
        logp = z.log_softmax(0)
        rival = ((1 - objective.mixture) * logp.detach() + objective.mixture * reference).log_softmax(0)
        wins = (preferred * rival.exp()).sum(1)
        (worths,) = objective.estimator([[Judged(float(p), 1) for p in wins]])
        rows = rollout(
            list(logp[:, None]), ref=reference[:, None].tolist(), advantage=[w.advantage_T.tolist() for w in worths]
        )
        (slope,) = torch.autograd.grad((logp.exp().detach() * objective.loss(rows)).sum(), z)
        z = (z - slope).detach().requires_grad_()
    z = z.detach()
    return float(z[1] - z[0]), float(rival[1] - rival[0])


@pytest.mark.parametrize("mixture", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kl", [0.5, 2.0])
def test_nash_md_reaches_the_regularised_equilibrium(mixture: float, kl: float) -> None:
    """ref exp(P / kl): of two actions P(second) - P(first) is 0.3 whoever the rival, so that the log-odds are the
    reference's and 0.3 / kl."""
    for start in (-2.0, 3.0):
        end, rival = nash(OBJECTIVES.build("nash_md", {"kl": kl, "mixture": mixture}), start)
        assert end == pytest.approx(-0.7 + 0.3 / kl, abs=1e-6)
        assert rival == pytest.approx((1 - mixture) * end + mixture * -0.7, abs=1e-6)


def test_nash_md_does_not_move_where_nothing_is_better_and_nothing_has_moved() -> None:
    objective = OBJECTIVES.build("nash_md", {})
    (worths,) = objective.estimator([[Judged(0.5, 2), Judged(0.5, 1)]])
    rows = rollout(
        [[-1.0, -0.3], [-2.0]], ref=[[-1.0, -0.3], [-2.0]], advantage=[w.advantage_T.tolist() for w in worths]
    )
    (slope,) = torch.autograd.grad(objective.loss(rows).sum(), rows.logp_S)
    assert not slope.any() and objective.needs.rivals == "mixture"


def test_distillation_by_policy_gradient_is_the_divergence_from_the_teacher() -> None:
    z_KA = tree()
    logp_Y2 = tokens(z_KA)
    objective = OBJECTIVES.build("reverse_kd", {})
    rows = rollout(list(logp_Y2), ref=tokens(REF).tolist(), advantage=np.zeros((9, 2)).tolist())
    weighted = rows.total(objective.loss(rows)) * logp_Y2.sum(1).exp().detach()
    (found,) = torch.autograd.grad(weighted.sum(), z_KA)
    assert close(found, divergences(reverse=True, sway=True)) and objective.needs.roles == ("reference",)
    assert CREDITS.get(objective.credit.name)().baseline == 0
