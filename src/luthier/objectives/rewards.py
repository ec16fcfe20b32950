"""Reward models: objectives on the readings of a scalar head.

Shape suffixes: N = rows (responses), P = pairs, K = readings of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from luthier.objectives.base import Objective
from luthier.objectives.rows import Rows
from luthier.recipe.schema import Float, Why
from luthier.types import DECIDED_STEP, PAIR, ROW, STEP, Needs

REWARD_LR = 1e-4
"""With added weights: the new head has everything to learn, and no reference to stay near."""


@dataclass(frozen=True)
class RewardModel(Objective):
    """What reward models have in common: the reading is the reward."""

    default_lr: ClassVar[float | None] = REWARD_LR

    def implicit_rewards(self, rows: Rows) -> Tensor | None:
        """The head's reading at the end of each response, N."""
        value_K, row_K = rows.read("reward")
        return value_K.new_zeros(rows.num_rows).index_add(0, row_K, value_K)


@dataclass(frozen=True)
class Reward(RewardModel):
    """The Bradley-Terry reward model (arXiv:2204.05862): -log sigma(r_better - r_worse - margin)
    + centring * (r_better + r_worse)^2.

    log 2 where the two are equal. The margin (arXiv:2307.09288) says by how much the better response is better, where
    the data do; centring (arXiv:2312.09244, eq. 2) holds the rewards' mean at zero, which comparisons leave open.
    """

    margin: Annotated[bool, Why("who gives margins means them")] = True
    """Use the margins of the data, where there are some."""
    centring: Annotated[Float, Field(ge=0), Why("only differences are compared; 0.01 centres them")] = 0.0
    """Weight of the squared sum of a pair's rewards."""
    needs: ClassVar[Needs] = Needs(responses=2, readouts=(), heads=(("reward", "row"),), unit=PAIR)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        implicit_N = self.implicit_rewards(rows)
        assert implicit_N is not None
        better_P, worse_P = rows.better_worse(implicit_N)
        difference_P = better_P - worse_P
        if self.margin and "margin" in rows.columns:
            difference_P = difference_P - rows.better_worse(rows.column("margin"))[0]
        loss_P = -logsigmoid(difference_P)
        return loss_P + self.centring * (better_P + worse_P) ** 2 if self.centring else loss_P


@dataclass(frozen=True)
class OutcomeReward(RewardModel):
    """An outcome reward model: is this response right? From labels, not from comparisons, as the verifiers of
    arXiv:2110.14168 learn it; theirs judge every token, this one the end of the response.

    -log sigma(r) for a response labelled good (score above 0.5), -log sigma(-r) for one labelled bad; sigma(r) is the
    probability that it is right.
    """

    needs: ClassVar[Needs] = Needs(readouts=(), heads=(("reward", "row"),), labels=True, unit=ROW)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each response, N."""
        implicit_N = self.implicit_rewards(rows)
        if implicit_N is None or rows.reward_N is None:
            raise ValueError("these rows have no labels")
        return -logsigmoid(torch.where(rows.reward_N > 0.5, implicit_N, -implicit_N))


@dataclass(frozen=True)
class ProcessReward(RewardModel):
    """The process reward model (arXiv:2305.20050): is this step right? The head is read at the end of each step.

    -log sigma(v) for a step with a label above 0, -log sigma(-v) for one below 0; sigma(v) is the probability that the
    step is right.
    """

    neutral: Annotated[Literal["positive", "negative", "ignore"], Why("as the paper scores solutions")] = "positive"
    """What a step labelled 0 counts as, in data of -1, 0 and 1: there it is neither right nor wrong. (A source that has
    only 0 and 1 means wrong by 0, and is read so.)"""
    needs: ClassVar[Needs] = Needs(readouts=(), heads=(("reward", "step"),), unit=STEP)

    def __post_init__(self) -> None:
        if self.neutral == "ignore":
            self.need(unit=DECIDED_STEP)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each step, K; 0 for those that are ignored."""
        value_K, _ = rows.read("reward")
        label_K = rows.column("step_reward")
        right_K = label_K >= 0 if self.neutral == "positive" else label_K > 0
        loss_K = -logsigmoid(torch.where(right_K, value_K, -value_K))
        return torch.where(label_K == 0, 0.0, loss_K) if self.neutral == "ignore" else loss_K

    def implicit_rewards(self, rows: Rows) -> Tensor | None:
        """None: steps are judged, not responses."""
        return None
