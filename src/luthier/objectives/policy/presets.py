"""Published policy-gradient methods: each is the one class with its paper's choices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.objectives.policy import leash
from luthier.objectives.policy.gradient import Clip, Mean, PolicyGradient, Ratio, Weight
from luthier.recipe.schema import Float, Plugin, PluginField, Why
from luthier.types import Needs

BATCH, LEAVE_ONE_OUT, WHITENED = (Plugin(name=name) for name in ("batch", "leave_one_out", "whitened"))
UNSCALED = Plugin(name="group", args={"scale": "none"})


@dataclass(frozen=True)
class Reinforce(PolicyGradient):
    """REINFORCE with a baseline: -A log pi of each response, A its reward less the mean of the rollout's others. One
    response to a prompt is enough. Nothing is clipped: one update a rollout."""

    credit: PluginField = BATCH
    clip_low: Clip = "none"
    clip_high: Clip = "none"
    unit: Mean = "constant"


@dataclass(frozen=True)
class RLOO(PolicyGradient):
    """REINFORCE leave-one-out (arXiv:2402.14740): a response's reward less the mean of the others to its prompt, the
    ratio that of the whole response. The divergence is that of whole responses, in the loss instead of the reward: the
    same gradient in the mean."""

    credit: PluginField = LEAVE_ONE_OUT
    ratio: Ratio = "product"
    unit: Mean = "constant"
    kl: Annotated[Weight, Why("TRL's default")] = 0.05
    kl_by: leash.Estimator = "k1"


@dataclass(frozen=True)
class GRPO(PolicyGradient):
    """Group relative policy optimisation (arXiv:2402.03300, eq. 3): advantages by the group's mean and spread, each
    response's own mean over tokens, 0.04 of k3 in the loss. `unit: token` is the form with one mean over all tokens."""

    unit: Mean = "row"
    kl: Annotated[Weight, Why("the paper's")] = 0.04


@dataclass(frozen=True)
class DrGRPO(PolicyGradient):
    """GRPO done right (arXiv:2503.20783): no division by the group's spread, and each response's sum divided by a
    constant, so that neither easy prompts nor long wrong answers count otherwise than they should. No divergence."""

    credit: PluginField = UNSCALED
    unit: Mean = "constant"
    length: Annotated[Float, Field(gt=0), Why("how long answers usually may be: it scales all gradients alike")] = 256.0


@dataclass(frozen=True)
class GSPO(PolicyGradient):
    """Group sequence policy optimisation (arXiv:2507.18071): the ratio is a response's geometric mean, which is clipped
    as a whole, and far nearer to 1 than a token's would be. No divergence."""

    ratio: Ratio = "sequence"
    clip_low: Clip = 3e-4
    clip_high: Clip = 4e-4
    unit: Mean = "row"


@dataclass(frozen=True)
class ReinforcePP(PolicyGradient):
    """REINFORCE++ (arXiv:2501.03262): PPO without a critic. What came from each token on, the log-ratio from the
    reference taken off its reward, is brought to mean 0 and variance 1 over the whole rollout. `credit: {whitened:
    {baseline: group}}` is its form for several responses to a prompt."""

    credit: PluginField = WHITENED
    kl: Annotated[Weight, Why("it adds up over a response's tokens")] = 0.01
    kl_by: leash.Estimator = "reward"


@dataclass(frozen=True)
class DAPO(PolicyGradient):
    """Decoupled clip and dynamic sampling (arXiv:2503.14476): a wider bound above than below, so that rare tokens may
    rise; one mean over all tokens; no divergence. Its other half is the rollout: groups that are all right or all wrong
    are drawn again, and answers that grow too long cost (`overlong`)."""

    clip_high: Clip = 0.28
    needs: ClassVar[Needs] = replace(PolicyGradient.needs, dynamic=True)
