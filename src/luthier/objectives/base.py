"""What every objective is to the loop, with the answers that suit most of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from luthier.objectives.rows import Rows
from luthier.types import Needs


class Objective(ABC):
    """A frozen dataclass whose fields are its YAML keys. It is pure maths: what it needs is brought to it in `Rows`."""

    needs: ClassVar[Needs]
    whole_step: ClassVar[bool] = False
    """Its values cannot be had from parts of a step: the loop lays the whole step out as one micro-batch."""
    default_lr: ClassVar[float | None] = None
    """Peak learning rate with added weights, unless the recipe sets one. None: the adapter's own."""

    @property
    def needs_mean_logp(self) -> bool:
        """Whether the head must also give the mean log-probability over the vocabulary."""
        return False

    @property
    def weighs_prompts(self) -> bool:
        """Whether it asks for a weight for each row by where its prompt comes from (`Rows.weight_N`)."""
        return False

    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """What it is the weighted sum of; each term is a mean over its own unit."""
        return ((1.0, self),)

    @abstractmethod
    def loss(self, rows: Rows) -> Tensor:
        """Unreduced: one value a unit. A mean over the step is the loop's business."""

    def implicit_rewards(self, rows: Rows) -> Tensor | None:
        """What each response is worth in the objective's own terms, N; None where it judges nothing."""
        return None

    def counted(self, label_K: Tensor) -> int:
        """How many of these step labels count as units."""
        return len(label_K)

    # what an objective carries from step to step; most carry nothing
    def begin(self) -> dict[str, float]:
        """The state before the first step."""
        return {}

    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]:
        """The state after a step, from all of its rewards and scores."""
        return dict(state)
