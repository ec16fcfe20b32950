"""What every objective is to the loop, with the answers that suit most of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from luthier.objectives.credit import Credit
from luthier.objectives.rows import Rows
from luthier.types import Needs

MODEL = "model"
"""Among rates: all weights but those of scalar heads."""


class Objective(ABC):
    """A frozen dataclass whose fields are its YAML keys. It is pure maths: what it needs is brought to it in `Rows`."""

    needs: ClassVar[Needs]
    """All that it asks of the house. Where its keys decide, an instance has its own."""
    imitates: ClassVar[bool] = False
    """It makes responses likelier as they stand. Beside a term that compares or judges, it learns from the better ones
    alone (`Rows.best`)."""
    default_lr: ClassVar[float | None] = None
    """Peak learning rate with added weights, unless the recipe sets one. None: the adapter's own."""

    def need(self, **more: Any) -> None:
        """What this instance needs besides what its class declares; for `__post_init__`."""
        object.__setattr__(self, "needs", replace(self.needs, **more))

    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """What it is the weighted sum of; each term is a mean over its own unit."""
        return ((1.0, self),)

    @property
    def estimator(self) -> Credit | None:
        """How rewards become the advantages that it learns from; None where it learns from no advantages."""
        return None

    @property
    def reward_kl(self) -> float:
        """How much of each token's log-ratio from the reference is taken off its reward before credit is given."""
        return 0.0

    def next_reward_kl(self, weight: float, seen: float, responses: int) -> float:
        """What `reward_kl` is to be after a rollout in which it was `weight`, of so many responses that were `seen`
        nats a response away from the reference. A source keeps it from step to step."""
        return weight

    def weights(self, version: int) -> tuple[float, ...]:
        """The weight of each term once `version` steps are done."""
        return tuple(weight for weight, _ in self.terms())

    def rates(self, version: int) -> dict[str, float]:
        """Learning rates once `version` steps are done, in multiples of the run's: of scalar heads by role, of all
        other weights by `MODEL`; 1 for what is not named."""
        return {}

    @abstractmethod
    def loss(self, rows: Rows) -> Tensor:
        """Unreduced: one value a unit. A mean over the step is the loop's business."""

    def implicit_rewards(self, rows: Rows) -> Tensor | None:
        """What each response is worth in the objective's own terms, N; None where it judges nothing."""
        return None

    def advice(self, good: int, bad: int) -> str | None:
        """What its authors advise for data with so many good and bad responses; None where they say nothing."""
        return None

    def shown(self, rows: Rows) -> Mapping[str, Tensor]:
        """What a step shows of its inside, of one micro-batch, by the names of `luthier.objectives.shown`."""
        return {}

    # what an objective carries from step to step; most carry nothing
    def begin(self) -> dict[str, float]:
        """The state before the first step."""
        return {}

    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]:
        """The state after a step, from all of its rewards and scores."""
        return dict(state)
