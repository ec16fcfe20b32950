"""Objectives that compare a better and a worse response, each measured against a reference.

All of them see a response's reward r = beta * log-ratio, the log-ratio being log pi(y|x) - log pi_ref(y|x), summed over
its scored tokens; they differ in what they make of the two rewards of a pair.

Shape suffixes: S = scored tokens of the micro-batch, N = rows, P = pairs, E = scored tokens of one side of all pairs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from luthier.errors import LuthierError
from luthier.objectives.base import Objective
from luthier.objectives.rows import Rows
from luthier.recipe.schema import Float, Why
from luthier.types import PAIR, Needs

PREFERENCE_LR = 5e-6
"""With added weights. TRL's example command for DPO takes 5e-7 for all weights and ten times that for LoRA."""


@dataclass(frozen=True)
class Compared(Objective):
    """A loss of pairs whose rewards are beta times the log-ratio from the reference, one value a pair."""

    beta: Annotated[Float, Field(gt=0), Why("the usual value; larger stays closer to the reference")] = 0.1
    """Weight of a response's log-ratio from the reference: how fast rewards grow as the model moves away from it."""
    needs: ClassVar[Needs] = Needs(responses=2, roles=("reference",), unit=PAIR)
    default_lr: ClassVar[float | None] = PREFERENCE_LR

    def implicit_rewards(self, rows: Rows) -> Tensor:
        """beta * log-ratio of each response, N."""
        return self.beta * rows.log_ratio()


@dataclass(frozen=True)
class Pairwise(Compared):
    """A loss of nothing but the two rewards of a pair."""

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        return self.of(*rows.better_worse(self.implicit_rewards(rows)))

    @abstractmethod
    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The loss of each pair's two rewards, P."""


@dataclass(frozen=True)
class DPO(Pairwise):
    """Direct preference optimisation (arXiv:2305.18290): -log sigma(r_better - r_worse). log 2 at the start.

    `label_smoothing` e is the share of pairs that may be the wrong way round. Conservative: (1 - e) l(d) + e l(-d) with
    d the difference of rewards and l(d) = -log sigma(d). `robust` (rDPO, arXiv:2403.00409):
    ((1 - e) l(d) - e l(-d)) / (1 - 2e), whose mean over labels flipped at rate e is the loss of the right labels.
    """

    label_smoothing: Annotated[Float, Field(ge=0, lt=0.5), Why("labels are believed")] = 0.0
    """Share of the pairs that may be the wrong way round."""
    robust: bool = False
    """Correct for wrong labels without bias (rDPO) instead of aiming lower; needs label_smoothing."""
    length_alpha: Annotated[Float, Field(ge=0, le=1)] | None = None
    """Length-desensitised DPO (LD-DPO, arXiv:2409.06411): weight of the longer response's tokens beyond the length of
    the shorter one. 0 leaves them out, 1 is plain DPO. Default: plain DPO."""
    reference_free: bool = False
    """Compare with a uniform reference: the log-ratio is the log-probability itself."""

    def __post_init__(self) -> None:
        if self.robust and not self.label_smoothing:
            raise LuthierError(
                "`robust` corrects for a share of wrong labels, and label_smoothing says there are none",
                where="objective.dpo",
                fix="set label_smoothing, the share of pairs you expect to be the wrong way round (such as 0.1)",
            )
        if self.reference_free:
            self.need(roles=())

    def _log_ratio_S(self, rows: Rows) -> Tensor:
        # rows hold a reference where another term needs it
        return rows.logp_S if self.reference_free else rows.log_ratio_S

    def implicit_rewards(self, rows: Rows) -> Tensor:
        """beta * log-ratio of each response, N."""
        return self.beta * rows.total(self._log_ratio_S(rows))

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        if self.length_alpha is None:
            return super().loss(rows)
        if rows.better_P is None or rows.worse_P is None:
            raise ValueError("these rows hold no pairs")
        limit_P = torch.minimum(rows.length_N[rows.better_P], rows.length_N[rows.worse_P])
        log_ratio_S, alpha = self._log_ratio_S(rows), self.length_alpha
        better_P, worse_P = (
            self.beta * _shortened(log_ratio_S, rows, side_P, limit_P, alpha)
            for side_P in (rows.better_P, rows.worse_P)
        )
        return self.of(better_P, worse_P)

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """-log sigma of the difference, smoothed."""
        smoothed_P = smoothed(better_P - worse_P, -self.label_smoothing if self.robust else self.label_smoothing)
        return smoothed_P / (1 - 2 * self.label_smoothing) if self.robust else smoothed_P


def smoothed(difference_P: Tensor, share: float) -> Tensor:
    """-(1 - |e|) log sigma(d) - e log sigma(-d): the logistic loss, e = `share` of it for the pair turned round."""
    loss_P = -(1 - abs(share)) * logsigmoid(difference_P)
    return loss_P - share * logsigmoid(-difference_P) if share else loss_P


def _shortened(log_ratio_S: Tensor, rows: Rows, side_P: Tensor, limit_P: Tensor, alpha: float) -> Tensor:
    """The log-ratio of one side's responses, their tokens beyond `limit_P` weighted by `alpha`: P.

    A response may stand in several pairs with a limit in each, so that its tokens are laid out once for each pair.
    """
    length_N, length_P = rows.length_N.long(), rows.length_N[side_P].long()
    start_N = length_N.cumsum(0) - length_N
    pair_E = torch.repeat_interleave(torch.arange(len(side_P), device=side_P.device), length_P)
    place_E = torch.arange(len(pair_E), device=side_P.device) - (length_P.cumsum(0) - length_P)[pair_E]
    drift_E = log_ratio_S[start_N[side_P][pair_E] + place_E]
    weight_E = torch.where(place_E < limit_P[pair_E], 1.0, alpha)
    return drift_E.new_zeros(len(side_P)).index_add(0, pair_E, drift_E * weight_E)


@dataclass(frozen=True)
class IPO(Pairwise):
    """Identity preference optimisation (arXiv:2310.12036, eq. 17): (h_better - h_worse - 1/(2 beta))^2, beta being tau.

    h is the log-ratio, by default its mean over the response's tokens, as the authors trained it; the paper writes the
    sum.
    The two need different beta. 1/(4 beta^2) at the start, 0 where the log-ratios differ by 1/(2 beta).
    """

    sum: bool = False
    """Compare the log-ratio summed over tokens, not its mean."""

    def implicit_rewards(self, rows: Rows) -> Tensor:
        """beta * mean (or summed) log-ratio of each response, N."""
        return self.beta * (rows.log_ratio() if self.sum else rows.mean(rows.log_ratio_S))

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The squared distance of the log-ratios' difference from 1/(2 beta)."""
        return ((better_P - worse_P - 0.5) / self.beta) ** 2


@dataclass(frozen=True)
class Hinge(Pairwise):
    """The hinge loss of SLiC (arXiv:2305.10425) on rewards relative to the reference: max(0, 1 - r_better + r_worse).

    1 at the start; no gradient once the rewards differ by 1.
    """

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """How much of the margin of 1 is missing."""
        return torch.relu(1 - (better_P - worse_P))


@dataclass(frozen=True)
class SPPO(Pairwise):
    """Self-play preference optimisation with hard labels (arXiv:2405.00675, eq. 4.7 with a win probability of 1 or 0):
    (h_better - 1/(2 beta))^2 + (h_worse + 1/(2 beta))^2, h the log-ratio. 1/(2 beta^2) at the start.
    """

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The squared distances of the two log-ratios from their targets."""
        return ((better_P - 0.5) / self.beta) ** 2 + ((worse_P + 0.5) / self.beta) ** 2


@dataclass(frozen=True)
class NCA(Pairwise):
    """Noise contrastive alignment of pairs (arXiv:2402.05369, §4):
    -log sigma(r_better) - (log sigma(-r_better) + log sigma(-r_worse)) / 2. 2 log 2 at the start.

    It holds the better response's likelihood up, where DPO lets both fall.
    """

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The better reward up, and both held near zero."""
        return -logsigmoid(better_P) - 0.5 * (logsigmoid(-better_P) + logsigmoid(-worse_P))


@dataclass(frozen=True)
class EXO(Pairwise):
    """Efficient exact optimisation of pairs (arXiv:2402.00856, eq. 16): KL(q, p) of two distributions over the pair.

    q = softmax of the two rewards, p = (1 - e, e) with e the label smoothing. -log 2 - log(e (1 - e)) / 2 at the start.
    """

    label_smoothing: Annotated[Float, Field(ge=0, lt=0.5), Why("the paper's value")] = 1e-3
    """Weight of the worse response in the target distribution; above 0, or the divergence is infinite."""

    def __post_init__(self) -> None:
        if not self.label_smoothing:
            raise LuthierError(
                "exo with label_smoothing 0 has an infinite loss: its target gives the worse response no weight",
                where="objective.exo.label_smoothing",
                fix="leave it at 0.001, or take `objective: dpo`",
            )

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The divergence from the target distribution."""
        difference_P = better_P - worse_P
        log_q_P, log_rest_P = logsigmoid(difference_P), logsigmoid(-difference_P)
        log_p, log_rest = math.log1p(-self.label_smoothing), math.log(self.label_smoothing)
        return log_q_P.exp() * (log_q_P - log_p) + log_rest_P.exp() * (log_rest_P - log_rest)


@dataclass(frozen=True)
class APOZero(Pairwise):
    """Anchored preference optimisation, zero (arXiv:2408.06266, eq. 7): 1 - sigma(r_better) + sigma(r_worse).

    For better responses that are better than the model's own: they become likelier, the worse ones less likely. 1 at
    the start.
    """

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The better reward up, the worse one down, each by itself."""
        return torch.sigmoid(-better_P) + torch.sigmoid(worse_P)


@dataclass(frozen=True)
class APODown(Pairwise):
    """Anchored preference optimisation, down (arXiv:2408.06266, eq. 8): sigma(r_better) + sigma(r_worse - r_better).

    For better responses that are worse than the model's own: both become less likely, the worse one more so. 1 at the
    start.
    """

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The better reward down, and the worse one below it."""
        return torch.sigmoid(better_P) + torch.sigmoid(worse_P - better_P)


@dataclass(frozen=True)
class DiscoPOP(Pairwise):
    """The loss that a search over programs discovered (arXiv:2406.08414, eq. 5): (1 - s) l(d) + s exp(-d).

    d is the difference of rewards, l(d) = -log sigma(d), s = sigma(d / tau). (log 2 + 1) / 2 at the start. Not convex:
    with the paper's tau it rises with d around 0, where training begins, and falls on both sides.
    """

    tau: Annotated[Float, Field(gt=0), Why("the paper's value")] = 0.05
    """How sharply the loss changes over from the logistic to the exponential one around a difference of zero."""

    def of(self, better_P: Tensor, worse_P: Tensor) -> Tensor:
        """The blend of a logistic and an exponential loss."""
        difference_P = better_P - worse_P
        share_P = torch.sigmoid(difference_P / self.tau)
        # one exponential, because exp(-d) overflows where its share is nothing
        exponential_P = torch.exp(logsigmoid(difference_P / self.tau) - difference_P)
        return (1 - share_P) * -logsigmoid(difference_P) + exponential_P
