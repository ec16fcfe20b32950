"""Learning from a teacher's distribution: on the model's own responses, on those of the data, or on both in turn.

Learning from responses that a teacher wrote (sequence-level distillation, arXiv:1606.07947) is `sft`.

Shape suffixes: S = scored tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from luthier.objectives.base import Objective
from luthier.objectives.policy import leash
from luthier.objectives.policy.gradient import Clip, PolicyGradient, Weight
from luthier.objectives.rows import Rows
from luthier.objectives.shown import sums
from luthier.recipe.schema import Float, Plugin, PluginField, Why
from luthier.types import TOKEN, Needs, jsd

AS_IT_IS = Plugin(name="fixed")
Share = Annotated[Float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class GKD(Objective):
    """Generalised knowledge distillation (arXiv:2306.13649): the divergence of the model from its teacher over the
    whole vocabulary at each token, on responses that the model draws itself.

    With M = beta T + (1 - beta) S of teacher T and student S: beta KL(T, M) + (1 - beta) KL(S, M), which is symmetric
    and log 2 at most for beta = 1/2. beta 0 stands for KL(T, S) and 1 for KL(S, T): what the divergence is next to, by
    beta and by 1 - beta, where it itself is 0. Both models need the same vocabulary. With `teacher.top` the
    teacher's likeliest tokens alone are looked at one by one, and all others as one.
    """

    beta: Annotated[Share, Why("the authors' middle")] = 0.5
    """Between KL(teacher, model) at 0, which covers all that the teacher says, and KL(model, teacher) at 1, which keeps
    to what it is surest of."""
    own: Annotated[Share, Why("the authors' middle")] = 0.5
    """Share of the steps whose responses the model draws itself (the paper's lambda); the others learn from the data's.
    0: nothing is drawn, plain distillation."""
    needs: ClassVar[Needs] = Needs(roles=("teacher",), unit=TOKEN, rewards=False)

    def __post_init__(self) -> None:
        self.need(readouts=(self.readout,), rollouts=self.own > 0, own=self.own)

    @property
    def readout(self) -> str:
        """Which divergence is read."""
        return {0.0: "kl", 1.0: "reverse_kl"}.get(self.beta, jsd(self.beta))

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each token, S."""
        return rows.weight_S * rows.readouts[self.readout]

    def shown(self, rows: Rows) -> Mapping[str, Tensor]:
        """How far the model is from its teacher."""
        return sums("teacher_tokens", teacher_divergence=rows.readouts[self.readout])


@dataclass(frozen=True)
class ReverseKD(PolicyGradient):
    """Distillation by policy gradient: KL(model, teacher) of whole responses that the model draws, each token credited
    with how much likelier the teacher finds it and what follows (arXiv:2306.08543, without its variance reductions).

    The teacher is the recipe's `reference`. Rewards, where there are some, count besides.
    """

    credit: PluginField = AS_IT_IS
    clip_low: Clip = "none"
    clip_high: Clip = "none"
    kl: Weight = 1.0
    kl_by: leash.Estimator = "k1"
    needs: ClassVar[Needs] = replace(PolicyGradient.needs, rewards=False)
