"""Credit: what each sampled token was worth, out of the rewards of all responses to a prompt. Pure numpy.

A rollout judges its responses (`Judged`); an estimator turns the groups of a rollout into one `Worth` a response,
before anything is packed: a group is never split here. Which estimator a method takes is a key of its objective.

Shape suffixes: T = sampled tokens of one response, the stop token among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.registry import Registry

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One sampled response as credit sees it."""

    reward: float
    """What the whole of it is worth: the weighted sum of its scorers. NaN: nothing could be said of it."""
    tokens: int
    """T."""
    rewards_T: Floats | None = None
    """What is given at single tokens besides (steps judged by a process reward model, a penalty for leaving the
    reference); the whole's reward comes on top of the last one's."""
    values_T: Floats | None = None
    """What the critic expected from each token on, before it was drawn."""
    cut: bool = False
    """It ended because it was too long."""

    def to_come_T(self, gamma: float = 1.0) -> Floats:
        """What came from each token on: its own rewards and those after it, the whole's among them."""
        found_T = np.zeros(self.tokens) if self.rewards_T is None else np.array(self.rewards_T, np.float64)
        if self.tokens:
            found_T[-1] += self.reward
        if gamma == 1.0:
            return found_T[::-1].cumsum()[::-1]
        for t in range(self.tokens - 2, -1, -1):
            found_T[t] += gamma * found_T[t + 1]
        return found_T


@dataclass(frozen=True)
class Worth:
    """What a response's tokens turned out to be worth."""

    advantage_T: Floats
    """How much better than expected."""
    return_T: Floats | None = None
    """What the critic should have expected."""


Group = Sequence[Judged]
"""All responses to one prompt."""


class Credit(Protocol):
    """An advantage estimator: a frozen dataclass whose fields are its YAML keys. Estimators may look across groups
    (whitening). A response whose reward is NaN has advantage 0 and is left out of every mean."""

    critic: ClassVar[bool] = False
    """Does it ask what a critic expected (`values_T`)?"""

    @property
    def across(self) -> bool:
        """Does it hold responses to different prompts against each other, or against something else than responses?
        Otherwise a group whose responses are all worth the same teaches nothing."""
        return True

    def __call__(self, groups: Sequence[Group]) -> list[list[Worth]]: ...


CREDITS = Registry(
    "credit",
    {
        "group": "luthier.objectives.credit.groups:Normalised",
        "leave_one_out": "luthier.objectives.credit.groups:LeaveOneOut",
        "batch": "luthier.objectives.credit.groups:Batch",
        "whitened": "luthier.objectives.credit.groups:Whitened",
        "fixed": "luthier.objectives.credit.groups:Fixed",
        "gae": "luthier.objectives.credit.gae:GAE",
    },
)
"""The built-in estimators, and those of the entry points `luthier.credit`."""
