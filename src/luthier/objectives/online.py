"""Preference learning from responses that the model draws itself and that somebody compares.

A rollout's scores make its pairs, as the data's do: every two responses to a prompt whose rewards differ. Equal ones
are no pair.

Shape suffixes: N = rows (responses), P = pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.objectives.base import Objective
from luthier.objectives.pairs import DPO, Compared
from luthier.objectives.policy import leash
from luthier.objectives.policy.gradient import Clip, Mean, PolicyGradient, Weight
from luthier.objectives.rows import Rows
from luthier.recipe.schema import Float, Plugin, PluginField, Why
from luthier.types import PAIR, Needs, Preference

HALF = Plugin(name="fixed", args={"baseline": 0.5})


@dataclass(frozen=True)
class Online(Objective):
    """Any objective of pairs, on pairs of responses that the model draws (arXiv:2402.04792).

    objective: {online: ipo}            # or {online: {ipo: {beta: 0.2}}}
    """

    of: PluginField
    """The objective of pairs, with its keys. Written under `of:` or straight under `online:`."""
    needs: ClassVar[Needs] = Needs(rollouts=True)
    rest: ClassVar[str] = "of"
    """The field that takes the keys it has not itself."""
    _inner: ClassVar[Objective]

    def __post_init__(self) -> None:
        """Build the objective. Raises LuthierError where it compares no pairs."""
        inner: Objective = OBJECTIVES.build(self.of.name, self.of.args)
        if inner.needs.unit != PAIR or inner.needs.heads or len(inner.terms()) > 1:
            raise LuthierError(
                f"{self.of.name!r} learns from no pairs of responses that could be drawn",
                where="objective.online",
                fix="take one objective of pairs (dpo, ipo, hinge, simpo, …); a sum may have it as a term",
            )
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "needs", replace(inner.needs, rollouts=True))
        object.__setattr__(self, "default_lr", inner.default_lr)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        return self._inner.loss(rows)

    def implicit_rewards(self, rows: Rows) -> Tensor | None:
        """What the objective takes each response to be worth, N."""
        return self._inner.implicit_rewards(rows)

    def begin(self) -> dict[str, float]:
        """Its state."""
        return self._inner.begin()

    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]:
        """Its state after a step."""
        return self._inner.updated(state, implicit_N, reward_N)


@dataclass(frozen=True)
class OnlineDPO(DPO):
    """DPO on pairs of responses that the model draws and somebody compares (arXiv:2402.04792)."""

    needs: ClassVar[Needs] = replace(DPO.needs, rollouts=True)


@dataclass(frozen=True)
class XPO(Compared):
    """Exploratory preference optimisation (arXiv:2405.21046): DPO on a response of the policy and one of the reference,
    plus alpha times log pi of the reference's, which pushes the policy away from what it need not try again.

    log 2 + alpha log pi(reference's response) at the start.
    """

    alpha: Annotated[Float, Field(ge=0), Why("the sum over a response's tokens is large")] = 1e-5
    """Weight of the log-probability, summed over tokens, of what the reference drew."""
    needs: ClassVar[Needs] = replace(Compared.needs, rollouts=True, rivals="reference")

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each pair, P."""
        better_P, worse_P = rows.better_worse(self.implicit_rewards(rows))
        of_N = rows.columns.get("of_reference", rows.length_N.new_zeros(rows.num_rows))
        better_logp_P, worse_logp_P = rows.better_worse(of_N * rows.total(rows.logp_S))
        return -logsigmoid(better_P - worse_P) + self.alpha * (better_logp_P + worse_logp_P)


@dataclass(frozen=True)
class NashMD(PolicyGradient):
    """Nash learning by mirror descent (arXiv:2312.00886), its policy gradient: a response's reward is the probability P
    that it is preferred to one of a mixture of policy and reference, and the gradient that of
    P - 1/2 - kl log(pi / ref), the response long."""

    credit: PluginField = HALF
    clip_low: Clip = "none"
    clip_high: Clip = "none"
    unit: Mean = "constant"
    kl: Weight = 0.1
    kl_by: leash.Estimator = "k1"
    mixture: Annotated[Float, Field(ge=0, le=1), Why("between self-play and best response")] = 0.5
    """Share of the reference in who draws the rival, log-probabilities mixed token by token. 0: the policy. 1: the
    reference."""
    preference: Annotated[Preference, Why("a reward model's scores are meant so; right and wrong are not")] = "auto"
    """How scores become the probability of being preferred, where no judge compares the two answers itself. higher: 1,
    ½ or 0, by which is greater. logistic: the sigmoid of their difference. auto: logistic where scores have no bounds,
    else higher."""
    needs: ClassVar[Needs] = replace(PolicyGradient.needs, rivals="mixture", preference="auto")

    def __post_init__(self) -> None:
        """Build the estimator, and say who the rivals are."""
        super().__post_init__()
        self.need(mixture=self.mixture, preference=self.preference)
