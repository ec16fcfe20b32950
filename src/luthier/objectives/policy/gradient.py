"""The policy gradient: what was sampled becomes likelier by how much better than expected it turned out.

Shape suffixes: S = scored tokens of the micro-batch, N = rows (responses).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from luthier.errors import LuthierError
from luthier.objectives.base import Objective
from luthier.objectives.credit import CREDITS, Credit
from luthier.objectives.policy import leash
from luthier.objectives.policy.drift import drift, gap
from luthier.objectives.rows import Rows
from luthier.objectives.shown import sums
from luthier.recipe.schema import Float, Plugin, PluginField, Why
from luthier.types import ROW, TOKEN, Needs

POLICY_LR = 1e-4
"""With added weights. A model of 135M parameters learnt in 30 steps with it and with twice as much."""
GROUP = Plugin(name="group")
Weight = Annotated[Float, Field(ge=0)]
Clip = Annotated[Float, Field(ge=0)] | Literal["none"]
Ratio = Literal["token", "sequence", "product"]
Mean = Literal["token", "row", "constant"]


@dataclass(frozen=True)
class PolicyGradient(Objective):
    """The clipped policy gradient (arXiv:1707.06347, eq. 7): -min(r A, clip(r, 1 - low, 1 + high) A) of each token.

    r is how much likelier the policy makes what the old policy drew, A the advantage that `credit` found for it. Where
    nobody wrote the old policy's log-probabilities down, the policy as it stands is the old one: r is 1, with its
    gradient. Methods differ in credit, ratio, clipping, what the mean is over, and in what holds them to a reference.
    """

    credit: PluginField = GROUP
    """How rewards become advantages: group, leave_one_out, batch, whitened, fixed or gae, with its keys."""
    ratio: Annotated[Ratio, Why("each token is clipped by itself")] = "token"
    """The ratio of the policy and the old policy. token: each token's own. sequence: the geometric mean of a
    response's (GSPO). product: the whole response's."""
    clip_low: Clip = 0.2
    """How far below 1 the ratio may fall before it stops to teach. none: without end."""
    clip_high: Clip = 0.2
    """How far above 1 the ratio may rise before it stops to teach. none: without end."""
    dual_clip: Annotated[Float, Field(gt=1)] | None = None
    """What a bad token's ratio counts at most (arXiv:1912.09729; 3 is usual): its loss has no other bound. Default:
    off."""
    unit: Annotated[Mean, Why("every token counts alike, in short and in long responses")] = "token"
    """What the loss is a mean over. token: all tokens of the step. row: each response's own mean, then the mean over
    responses. constant: each response's sum, divided by `length`, then the mean over responses."""
    length: Annotated[Float, Field(gt=0), Why("the plain sum")] = 1.0
    """What a response's sum is divided by, with `unit: constant`."""
    kl: Weight = 0.0
    """Weight of the divergence from the reference. 0: no reference is read."""
    kl_by: Annotated[leash.Estimator, Why("the published methods' choice; see what its gradient is")] = "k3"
    """How the divergence is had from the sampled tokens. k1: the score function, the gradient of a response's whole
    KL(policy, reference). k2, k3_ratio: that at each token. k3: that of KL(reference, policy). reward: the log-ratio is
    taken off each token's reward before credit is given."""
    correction: Annotated[Literal["none", "truncate", "mask", "mask_row"], Why("the local engine is the model")] = (
        "none"
    )
    """What becomes of the gap between the engine that drew and the model that learns. truncate: each token is weighed
    by the ratio of the two, which counts `cap` at most. mask: weighed by it, and left out above `cap`. mask_row: the
    same of whole responses."""
    cap: Annotated[Float, Field(gt=0), Why("the usual bound")] = 2.0
    """The greatest ratio that `correction` lets pass."""
    entropy: Weight = 0.0
    """Weight of the entropy of the policy at each token, which the loss rewards."""
    needs: ClassVar[Needs] = Needs(rollouts=True, unit=TOKEN)
    default_lr: ClassVar[float | None] = POLICY_LR

    def __post_init__(self) -> None:
        """Build the estimator, and say what the keys ask of the house."""
        estimator: Credit = CREDITS.build(self.credit.name, self.credit.args)
        object.__setattr__(self, "_estimator", estimator)
        if estimator.critic and "value" not in dict(self.needs.heads):
            raise LuthierError(
                f"the credit {self.credit.name!r} asks what a critic expected, and this objective trains none",
                where="objective.credit",
                fix="take `objective: ppo`, or credit without a critic (group, leave_one_out, batch, whitened)",
            )
        self.need(
            unit=TOKEN if self.unit == "token" else ROW,
            responses=1 if estimator.across else 2,
            roles=("reference",) if self.kl else (),
            readouts=("logp", "entropy") if self.entropy else ("logp",),
            again=self.clip_low != "none" or self.clip_high != "none",
        )

    _estimator: ClassVar[Credit]

    @property
    def estimator(self) -> Credit:
        """How rewards become advantages."""
        return self._estimator

    @property
    def reward_kl(self) -> float:
        """The weight of the divergence, where it is taken off the rewards."""
        return self.kl if self.kl_by == "reward" else 0.0

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced: one value a token, or one a response where the mean is over responses."""
        log_ratio_S = drift(rows)
        advantage_S = rows.columns.get("advantage", torch.zeros_like(rows.logp_S))
        loss_S = self.correction_of(rows) * self.clipped(self.log_ratio_of(rows, log_ratio_S).exp(), advantage_S)
        if self.kl and self.kl_by != "reward":
            loss_S = loss_S + self.kl * leash.penalty(rows, self.kl_by, leash.bounded(log_ratio_S).exp())
        if self.entropy:
            loss_S = loss_S - self.entropy * rows.readouts["entropy"]
        loss_S = rows.weight_S * loss_S
        if self.unit == "token":
            return loss_S
        return rows.mean(loss_S) if self.unit == "row" else rows.total(loss_S) / self.length

    def log_ratio_of(self, rows: Rows, log_ratio_S: Tensor) -> Tensor:
        """The log of the ratio that each token counts with, S. That of a response stands at each of its tokens, which
        passes its own share of the gradient on."""
        if self.ratio == "token":
            return leash.bounded(log_ratio_S)
        whole_N = rows.mean(log_ratio_S) if self.ratio == "sequence" else rows.total(log_ratio_S)
        return leash.bounded(whole_N.detach())[rows.row_S] + log_ratio_S - log_ratio_S.detach()

    def clipped(self, ratio_S: Tensor, advantage_S: Tensor) -> Tensor:
        """The loss of each token, clipped where it would go on beyond the bounds."""
        low, high = self._bounds()
        loss_S = torch.maximum(-ratio_S * advantage_S, -ratio_S.clamp(low, high) * advantage_S)
        if self.dual_clip is None:
            return loss_S
        return torch.where(advantage_S < 0, torch.minimum(loss_S, -self.dual_clip * advantage_S), loss_S)

    def _bounds(self) -> tuple[float, float]:
        """Between what the ratio is clipped."""
        low = 0.0 if self.clip_low == "none" else 1 - self.clip_low
        return low, math.inf if self.clip_high == "none" else 1 + self.clip_high

    def correction_of(self, rows: Rows) -> Tensor:
        """How much each token counts for the gap between who drew it and who learns from it: S, no gradient."""
        gap_S = gap(rows)
        if self.correction == "none" or gap_S is None:
            return torch.ones_like(rows.logp_S)
        gap_S = gap_S.nan_to_num(nan=0.0)
        if self.correction == "mask_row":
            gap_S = rows.total(gap_S)[rows.row_S]
        weight_S = leash.bounded(gap_S).exp()
        return weight_S.clamp(max=self.cap) if self.correction == "truncate" else weight_S * (weight_S <= self.cap)

    @torch.no_grad()
    def shown(self, rows: Rows) -> Mapping[str, Tensor]:
        """Clipped share, ratio, drift, entropy, divergence from the reference, and the engine's mismatch."""
        log_ratio_S = self.log_ratio_of(rows, drift(rows))
        if not len(log_ratio_S):
            return {}
        ratio_S, (low, high) = log_ratio_S.exp(), self._bounds()
        advantage_S = rows.columns.get("advantage", torch.zeros_like(ratio_S))
        beyond_S = (ratio_S > high) & (advantage_S > 0)
        beyond_S |= (ratio_S < low) & (advantage_S < 0)
        found = sums(
            "policy_tokens",
            clipped=beyond_S,
            drift=leash.measured(-drift(rows)),
            entropy=rows.readouts.get("entropy", -rows.logp_S),
        )
        found["ratio_max"] = ratio_S.max().double()
        if rows.ref_S is not None:
            found |= sums("reference_tokens", kl=leash.measured(rows.logp_S - rows.ref_S))
        return {**found, **_mismatch(rows)}


def _mismatch(rows: Rows) -> Mapping[str, Tensor]:
    gap_S = gap(rows)
    gap_S = None if gap_S is None else gap_S[~gap_S.isnan()]
    if gap_S is None or not len(gap_S):
        return {}
    ratio_S = leash.bounded(gap_S).exp()
    found = sums(
        "sampler_tokens",
        mismatch=gap_S.abs(),
        mismatch_k3=leash.measured(-gap_S),
        mismatch_outside=(ratio_S < 0.9) | (ratio_S > 1.1),
    )
    return {**found, "mismatch_max": gap_S.abs().max().double()}
