"""What an objective asks of the house, and the units that losses are means over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Unit:
    """What a loss is a mean over, the whole optimiser step long: one of the units below, or a constant."""

    name: str
    divisor: float | None = None
    """The constant that the sum over a step is divided by, whatever the step holds."""


TOKEN = Unit("token")
"""Scored tokens, each by its weight."""
ROW = Unit("row")
"""Responses."""
GOOD_TOKEN = Unit("good token")
"""Scored tokens, by weight, of responses that the first scorer of a rollout calls right."""
PAIR = Unit("pair")
"""Two responses to one prompt, of which one is better."""
STEP = Unit("step")
"""Judged steps of responses."""
DECIDED_STEP = Unit("decided step")
"""Judged steps that are right or wrong: those labelled 0 do not count."""
GROUP = Unit("group")
"""Examples: all responses to one prompt together."""


def constant(divisor: float) -> Unit:
    """A unit that does not look at the step: its sum is divided by `divisor` (Dr.GRPO's constant)."""
    return Unit("constant", divisor)


JSD = "jsd "
"""Before a number, the name of a readout: see `jsd`."""


def jsd(beta: float) -> str:
    """The readout that is the generalised Jensen-Shannon divergence from a teacher, 0 < beta < 1."""
    return f"{JSD}{beta!r}"


Preference = Literal["auto", "higher", "logistic"]
"""How two scores become the probability that the first is preferred. higher: 1, ½ or 0. logistic: the sigmoid of their
difference. auto: logistic where scores have no bounds, else higher."""
Reads = Literal["token", "row", "step"]
"""Where a scalar head is read: at every scored token, at the end of each response, or of each of its steps."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an objective asks of the house: the recipe check, the loop and the documentation read nothing else."""

    responses: int = 1
    """How many responses to a prompt it compares, at least."""
    readouts: tuple[str, ...] = ("logp",)
    """What it reads of each scored token, by the names of `luthier.forward.readouts`: logp, mean_logp, entropy, …"""
    roles: tuple[str, ...] = ()
    """Models beside the one that trains: "reference" (log-probabilities of the same tokens under the model as it was,
    `Rows.ref_S`), "teacher" (its distribution, for the readouts that compare with one)."""
    heads: tuple[tuple[str, Reads], ...] = ()
    """Scalar heads beside the model, by role, and where each is read: ("reward", "row")."""
    apart: tuple[str, ...] = ()
    """Roles of heads whose losses leave the model alone: they learn from what it sees, and do not change it."""
    rollouts: bool = False
    """Its rows are prompts; the responses are made by the model while it trains."""
    rewards: bool = True
    """With rollouts: it learns from what answers are worth, so that something must say it."""
    dynamic: bool = False
    """Prompts whose answers are all right, or none, give way to others (`rollout.dynamic`, unless the recipe says)."""
    own: float = 1.0
    """With rollouts: the share of steps whose responses the model draws; in the others the data's own are taken."""
    again: bool = True
    """With rollouts: may one be gone through more than once? Not where nothing bounds how far that leads."""
    rivals: Literal["self", "reference", "mixture"] = "self"
    """With rollouts: who draws what a response is compared with. self: the model, all of a group. reference: half of
    each group, which the column `of_reference` says. mixture: of the model and the reference, half of each group, for
    the judge alone; it does not train."""
    mixture: float = 0.0
    """The share of the reference in that mixture, log-probabilities mixed token by token."""
    preference: Preference | None = None
    """With rollouts: an answer is worth the probability that it is preferred to its rival. Where scorers give scores,
    it is had of them so. None: it is worth what scorers say."""
    labels: bool = False
    """A reward for each response, above 0.5 good, else bad."""
    kl_baseline: bool = False
    """The step's mean log-ratio on mismatched pairs of prompt and response (`Rows.kl_baseline`)."""
    row_weights: bool = False
    """A weight for each row by where its prompt comes from (`Rows.weight_N`)."""
    whole_step: bool = False
    """Its values cannot be had from parts of a step: the whole step is laid out as one micro-batch."""
    loss_on: Literal["assistant", "last", "all"] | None = None
    """Which tokens train, whatever the recipe says; None: as the recipe says."""
    unit: Unit = TOKEN
    """What the loss is a mean over."""

    @property
    def reference(self) -> bool:
        """Does it compare with the model as it was?"""
        return "reference" in self.roles

    @property
    def reward_head(self) -> Reads | None:
        """Where it reads the head of a reward model; None where it reads none."""
        return dict(self.heads).get("reward")
