"""Methods with a critic: a scalar head that says, before each token, what the response will be worth.

Shape suffixes: S = scored tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from luthier.errors import LuthierError
from luthier.objectives.base import MODEL, Objective
from luthier.objectives.policy import leash
from luthier.objectives.policy.gradient import Clip, PolicyGradient, Weight
from luthier.objectives.rows import Rows
from luthier.objectives.shown import sums
from luthier.recipe.schema import Float, Int, Plugin, PluginField, Why
from luthier.types import GOOD_TOKEN, TOKEN, Needs

VALUE = "value"
"""The role of a critic's head. It is read where a token is predicted: what it says is of the state before the token."""
GAE = Plugin(name="gae")
VAPO_GAE = Plugin(name="gae", args={"lam_value": 1.0, "adaptive": 0.05})


@dataclass(frozen=True)
class Value(Objective):
    """What a critic learns: half the squared distance from the return, and no less for having moved farther than `clip`
    from what it said when the rollout was made (arXiv:1707.06347, as it is commonly trained)."""

    clip: Clip = 0.2
    """How far a value may move from the old one before it stops to learn. none: as far as it wants."""
    needs: ClassVar[Needs] = Needs(readouts=(), heads=((VALUE, "token"),), rollouts=True, unit=TOKEN)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each token, S."""
        value_S, _ = rows.read(VALUE)
        return_S = rows.column("return")
        loss_S = (value_S - return_S) ** 2
        if self.clip != "none":
            old_S = rows.column("old_value")
            near_S = old_S + (value_S - old_S).clamp(-self.clip, self.clip)
            loss_S = torch.maximum(loss_S, (near_S - return_S) ** 2)
        return 0.5 * rows.weight_S * loss_S

    @torch.no_grad()
    def shown(self, rows: Rows) -> Mapping[str, Tensor]:
        """What the critic expects, what it should, and how much of that it explains."""
        (value_S, _), return_S = rows.read(VALUE), rows.column("return").double()
        if not len(value_S):
            return {}
        names = {"value": value_S, "return": return_S, "return_squared": return_S**2}
        error_S = return_S - value_S
        return sums("value_tokens", **names, value_error=error_S, value_error_squared=error_S**2)


@dataclass(frozen=True)
class Good(Objective):
    """The likelihood of what was right: -log pi of each token of a response that the first scorer calls right, whatever
    else shapes its reward; a mean over those tokens (VAPO, arXiv:2504.05118, its positive examples)."""

    needs: ClassVar[Needs] = Needs(rollouts=True, unit=GOOD_TOKEN)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each token, S; 0 for those of responses that are not right."""
        if "right" not in rows.columns:
            return 0 * rows.logp_S
        return torch.where((rows.columns["right"] > 0)[rows.row_S], -rows.weight_S * rows.logp_S, 0.0)


@dataclass(frozen=True)
class PPO(PolicyGradient):
    """Proximal policy optimisation (arXiv:1707.06347): the clipped policy gradient with credit by a critic that learns
    beside it (GAE), each a mean over tokens.

    The divergence is taken off each token's reward, as InstructGPT did (arXiv:2203.02155). The critic is a head of its
    own on what the model sees.
    """

    credit: PluginField = GAE
    kl: Weight = 0.05
    kl_by: leash.Estimator = "reward"
    kl_target: Annotated[Float, Field(gt=0)] | None = None
    """How far, in nats a response, the policy may be from the reference: `kl` grows where it is farther and shrinks
    where it is nearer (arXiv:1909.08593). Default: `kl` stays as it is."""
    kl_horizon: Annotated[Float, Field(gt=0), Why("the usual value")] = 10_000.0
    """In how many responses `kl` changes by 20 %, at most."""
    value: Annotated[Float, Field(gt=0), Why("the usual value")] = 0.1
    """Weight of the critic's loss. The optimiser divides by the size of gradients: without `critic: model` it changes
    next to nothing, `critic_lr` does."""
    value_clip: Annotated[Clip, Why("the usual value")] = 0.2
    """How far a value may move from what it was in the rollout before it stops to learn. none: as far as it wants."""
    critic: Annotated[Literal["head", "model"], Why("what the critic learns must not change what the model says")] = (
        "head"
    )
    """Which weights learn from the critic's loss. head: its own alone. model: those of the model, too."""
    critic_lr: Annotated[Float, Field(gt=0), Why("a new head of few weights has everything to learn")] = 10.0
    """The learning rate of the critic's head, in multiples of the run's."""
    warm: Annotated[Int, Field(ge=0)] = 0
    """Steps at the start in which the critic learns alone, from what the model as it was says."""
    needs: ClassVar[Needs] = Needs(rollouts=True, heads=((VALUE, "token"),), unit=TOKEN)

    def __post_init__(self) -> None:
        """Lay the terms out. Raises LuthierError for keys that do not go together."""
        super().__post_init__()
        if self.warm and self.critic == "model":
            raise LuthierError(
                "while the critic learns alone, `critic: model` would change what the model says",
                where="objective.warm",
                fix="set critic to head, or warm to 0",
            )
        if self.kl_target is not None and not self.reward_kl:
            raise LuthierError(
                "`kl_target` moves the weight of what is taken off the reward, and nothing is",
                where="objective.kl_target",
                fix="set kl above 0 and kl_by to reward",
            )
        self.need(apart=(VALUE,) if self.critic == "head" else ())

    def next_reward_kl(self, weight: float, seen: float, responses: int) -> float:
        """Moved towards `kl_target`, where there is one."""
        if self.kl_target is None:
            return weight
        return leash.adapted(weight, seen, self.kl_target, self.kl_horizon, responses)

    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """The policy's part, and the critic's."""
        return ((1.0, self), (self.value, Value(self.value_clip)))

    def weights(self, version: int) -> tuple[float, ...]:
        """The critic's alone in the first steps."""
        return tuple(
            0.0 if version < self.warm and not isinstance(term, Value) else weight for weight, term in self.terms()
        )

    def rates(self, version: int) -> dict[str, float]:
        """The critic's own; nothing else moves in the first steps."""
        return {VALUE: self.critic_lr, **({MODEL: 0.0} if version < self.warm else {})}

    def shown(self, rows: Rows) -> Mapping[str, Tensor]:
        """What the policy shows, and the critic."""
        return {**super().shown(rows), **Value(self.value_clip).shown(rows)}


@dataclass(frozen=True)
class VAPO(PPO):
    """Value-based augmented PPO (arXiv:2504.05118): the critic learns alone at first and always from what truly came,
    advantages look farther ahead in longer responses, the upper bound is wider, and right answers are imitated, too.
    No divergence. Responses are sampled in groups."""

    credit: PluginField = VAPO_GAE
    clip_high: Clip = 0.28
    kl: Weight = 0.0
    warm: Int = 20
    imitate: Annotated[Weight, Why("the paper's")] = 0.1
    """Weight of the likelihood of right answers."""

    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """PPO's, and the likelihood of what was right."""
        return (*super().terms(), (self.imitate, Good())) if self.imitate else super().terms()
