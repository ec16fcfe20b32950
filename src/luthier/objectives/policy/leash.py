"""What holds a policy to its reference: estimators of KL(policy, reference) whose gradients are what they should be.

With d = log pi - log ref of a token that the policy drew, the estimators k1 = d, k2 = d^2 / 2 and k3 = e^-d - 1 + d all
have means at or near the divergence, and gradients that are something else (each by enumeration, in the tests):

    k1        as a loss by itself it has no gradient in the mean. Here it is the score function: what d comes to from
              the token on, times the gradient of log pi(token): that of the whole response's KL(policy, reference)
    k2        the gradient of KL(policy, reference) at the token, its sway over later tokens left out
    k3        the gradient of KL(reference, policy), the other way round, at the token (GRPO's)
    k3_ratio  k3 times the ratio of policy and old policy: that of KL(policy, reference) at the token

Shape suffixes: S = scored tokens of the micro-batch, N = rows.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from luthier.objectives.rows import Rows

Estimator = Literal["k1", "k2", "k3", "k3_ratio", "reward"]
FARTHEST = 20.0
"""Log-ratios beyond it count as it: e^20 is as good as never, and fp32 ends at e^88."""


def bounded(log_ratio: Tensor) -> Tensor:
    """A log-ratio whose exponential is finite."""
    return log_ratio.clamp(-FARTHEST, FARTHEST)


def k3(log_ratio: Tensor) -> Tensor:
    """e^-d - 1 + d of d = log p - log q for what p drew: never negative, its mean KL(p, q)."""
    apart = bounded(-log_ratio)
    return apart.exp() - 1 - apart


def measured(log_ratio: Tensor) -> Tensor:
    """`k3` for people, in float64: of log-ratios next to 0 rounding leaves nothing, or less, of the difference."""
    apart = bounded(-log_ratio.detach().double())
    return (apart.expm1() - apart).clamp(min=0)


def penalty(rows: Rows, estimator: Estimator, ratio_S: Tensor) -> Tensor:
    """What each token's distance from the reference costs, S; `ratio_S`: the policy by what drew the rows."""
    if rows.ref_S is None:
        raise ValueError("these rows have no reference")
    apart_S = rows.logp_S - rows.ref_S
    if estimator == "k1":
        return ratio_S * to_come(rows, apart_S.detach())
    if estimator == "k2":
        return 0.5 * bounded(apart_S) ** 2
    return k3(apart_S) * ratio_S if estimator == "k3_ratio" else k3(apart_S)


def adapted(weight: float, seen: float, target: float, horizon: float, responses: int) -> float:
    """The weight of the divergence after a rollout of so many responses that were `seen` nats a response away: more
    where that is beyond the target, less where it is within, by 20 % of responses / horizon at most
    (arXiv:1909.08593, §2.2)."""
    error = min(max(seen / target - 1, -0.2), 0.2)
    return weight * (1 + error * responses / horizon)


def to_come(rows: Rows, values_S: Tensor) -> Tensor:
    """The sum of the row's values from each token on: S."""
    values_S = values_S.double()
    so_far_S, total_N = values_S.cumsum(0), rows.total(values_S)
    end_N = total_N.cumsum(0)
    return (end_N[rows.row_S] - so_far_S + values_S).to(rows.logp_S.dtype)
