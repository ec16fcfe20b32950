"""Objectives that compare a better and a worse response without a reference: ORPO, CPO, SimPO.

Shape suffixes: S = scored tokens of the micro-batch, N = rows, P = pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from luthier.objectives.base import Objective
from luthier.objectives.pairs import PREFERENCE_LR, smoothed
from luthier.objectives.rows import Rows
from luthier.recipe.schema import Float, Why
from luthier.types import PAIR, Needs

CERTAIN = -1e-6
"""A mean log-probability above it counts as it: the odds of a certain response are infinite."""


@dataclass(frozen=True)
class ORPO(Objective):
    """Odds ratio preference optimisation (arXiv:2403.07691, eq. 6 and 7): NLL of the better response
    - beta * log sigma(log odds_better - log odds_worse).

    odds = p / (1 - p), p = exp(mean log-probability of the response's tokens). Fine-tuning and preference in one: it
    starts from a model without SFT. The likelihood term is each better response's own mean over its scored tokens
    (TRL's counts the prompt's, too). NLL + beta * log 2 where the two responses are equally likely.
    """

    beta: Annotated[Float, Field(ge=0), Why("the authors' value")] = 0.1
    """Weight of the odds ratio beside the likelihood of the better response (the paper's lambda)."""
    needs: ClassVar[Needs] = Needs(responses=2, unit=PAIR)
    default_lr: ClassVar[float | None] = 8e-5
    """Ten times the authors' rate for all weights, as for the other preference objectives."""

    def implicit_rewards(self, rows: Rows) -> Tensor:
        """beta * mean log-probability of each response, N."""
        return self.beta * rows.mean(rows.logp_S)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        better_P, worse_P = rows.better_worse(rows.mean(rows.logp_S))
        return -better_P - self.beta * logsigmoid(log_odds(better_P) - log_odds(worse_P))


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(logp), exact to rounding for p near 0 and near 1."""
    logp = logp.clamp(max=CERTAIN)
    # log(1 - exp(x)): each formula loses digits on the other side of log 1/2
    near_one, near_zero = torch.log(-torch.expm1(logp)), torch.log1p(-torch.exp(logp))
    return logp - torch.where(logp > -math.log(2), near_one, near_zero)


@dataclass(frozen=True)
class CPO(Objective):
    """Contrastive preference optimisation (arXiv:2401.08417, eq. 3): DPO with a uniform reference and SFT in one:
    -log sigma(beta (log pi_better - log pi_worse)) + alpha NLL_better.

    Log-probabilities are summed over the response; NLL_better is its mean over the better response's tokens.
    """

    beta: Annotated[Float, Field(gt=0), Why("the usual value")] = 0.1
    """Weight of a response's log-probability in its reward."""
    alpha: Annotated[Float, Field(ge=0), Why("the authors' value")] = 1.0
    """Weight of the better response's mean negative log-likelihood."""
    label_smoothing: Annotated[Float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that may be the wrong way round."""
    needs: ClassVar[Needs] = Needs(responses=2, unit=PAIR)
    default_lr: ClassVar[float | None] = PREFERENCE_LR

    def implicit_rewards(self, rows: Rows) -> Tensor:
        """beta * log-probability of each response, N."""
        return self.beta * rows.total(rows.logp_S)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        better_P, worse_P = rows.better_worse(self.implicit_rewards(rows))
        loss_P = smoothed(better_P - worse_P, self.label_smoothing)
        if not self.alpha:
            return loss_P
        likely_P, _ = rows.better_worse(rows.mean(rows.logp_S))
        return loss_P - self.alpha * likely_P


@dataclass(frozen=True)
class SimPO(Objective):
    """Simple preference optimisation (arXiv:2405.14734): -log sigma(r_better - r_worse - gamma).

    The reward r = beta * mean log-probability of the response's tokens, so that length earns nothing. log(1 + e^gamma)
    where the two responses are equally likely. Without a reference nothing holds the model back but the learning rate.
    """

    beta: Annotated[Float, Field(gt=0), Why("the authors' choice is 2 to 2.5")] = 2.0
    """Weight of a response's mean log-probability in its reward: larger than DPO's, which weighs a sum."""
    gamma: Annotated[Float, Field(ge=0), Why("half of beta, where the authors begin")] = 1.0
    """By how much the better reward should exceed the worse one. The margin itself, in units of reward: not the ratio
    gamma / beta that the authors' own code takes."""
    label_smoothing: Annotated[Float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that may be the wrong way round."""
    needs: ClassVar[Needs] = Needs(responses=2, unit=PAIR)
    default_lr: ClassVar[float | None] = PREFERENCE_LR

    def implicit_rewards(self, rows: Rows) -> Tensor:
        """beta * mean log-probability of each response, N."""
        return self.beta * rows.mean(rows.logp_S)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        better_P, worse_P = rows.better_worse(self.implicit_rewards(rows))
        return smoothed(better_P - worse_P - self.gamma, self.label_smoothing)
