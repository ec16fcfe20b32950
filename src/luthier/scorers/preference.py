"""Scorers of a model's own judgement: does it rank responses, or tell good ones from bad ones, as people did?

They need a model that gives rewards: explicit ones (a reward model's scalar head) or the implicit ones of a preference
objective (for DPO beta times the drift from the reference, arXiv:2305.18290, eq. 5). A tie counts one half, so that a
model that cannot tell has 0.5.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.data.statistics import GOOD
from luthier.errors import LuthierError
from luthier.recipe.schema import Why
from luthier.scorers.metric import Metric
from luthier.types import Example, Response


class Judgement(Metric):
    """A scorer of rewards, not of words: one response alone says nothing, so calling it gives None."""

    needs_rewards: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    lacking: ClassVar[str]
    """What rows lack that it cannot judge."""

    def __call__(self, example: Example, response: Response) -> float | None:
        return None

    @abstractmethod
    def judges(self, example: Example) -> bool:
        """Does the row have what is to be told apart?"""

    @abstractmethod
    def of_rewards(self, example: Example, rewards: Sequence[float]) -> tuple[float, ...] | None:
        """`statistics` of a row whose responses (or steps) a model gave these rewards; None where it does not judge."""


@dataclass(frozen=True)
class PreferenceAccuracy(Judgement):
    """The share of pairs that the model ranks as the data do, for rows with a better and a worse response.

    Several responses with scores make a pair of every two whose scores differ.
    """

    lacking: ClassVar[str] = "they have no two responses with different scores"

    def judges(self, example: Example) -> bool:
        return bool(pairs(example))

    def of_rewards(self, example: Example, rewards: Sequence[float]) -> tuple[float, ...] | None:
        """Pairs ranked right, and pairs: K = 2. `rewards` has one for each response."""
        ranked = [_right(rewards[better], rewards[worse]) for better, worse in pairs(example)]
        return (math.fsum(ranked), float(len(ranked))) if ranked else None


@dataclass(frozen=True)
class LabelAccuracy(Judgement):
    """How well a model's rewards tell good responses from bad ones by their sign, for rows with a label: the mean of
    the share of good ones that it rewards above 0 and the share of bad ones below.

    So a model that calls everything good has 0.5, however many are (balanced accuracy). A score above 0.5 is good.
    """

    lacking: ClassVar[str] = "they have no response with a label"

    def judges(self, example: Example) -> bool:
        return any(response.reward is not None for response in example.responses)

    def of_rewards(self, example: Example, rewards: Sequence[float]) -> tuple[float, ...] | None:
        """Good ones told, good ones, bad ones told, bad ones: K = 4. `rewards` has one for each response."""
        told = [0.0, 0.0, 0.0, 0.0]
        for response, reward in zip(example.responses, rewards, strict=True):
            if response.reward is not None:
                good = response.reward > GOOD
                told[0 if good else 2] += _right(reward, 0.0) if good else _right(0.0, reward)
                told[1 if good else 3] += 1.0
        return tuple(told) if any(told) else None

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of rows that are all good, or all bad: the one share there is."""
        told_BC, count_BC = totals_BK[:, 0::2], totals_BK[:, 1::2]  # C = good, bad
        share_BC = told_BC / np.maximum(count_BC, 1.0)
        mean_B: NDArray[np.float64] = share_BC.sum(1) / np.maximum((count_BC > 0).sum(1), 1)
        return mean_B


@dataclass(frozen=True)
class StepAccuracy(Judgement):
    """The share of steps that a process reward model calls right or wrong as the data do (right: p above one half).

    A step with a label above 0 is right, one below 0 wrong, as in `objective: process_reward`.
    """

    neutral: Annotated[Literal["positive", "negative", "ignore"], Why("as in `objective: process_reward`")] = "positive"
    """What a step labelled 0 counts as. In a source that has only 0 and 1, 0 is a wrong step whatever stands here."""

    lacking: ClassVar[str] = "they have no steps with labels"

    def judges(self, example: Example) -> bool:
        return any(response.step_rewards for response in example.responses)

    def of_rewards(self, example: Example, rewards: Sequence[float]) -> tuple[float, ...] | None:
        """Steps told right, and steps: K = 2. `rewards` has the logit of each step's p."""
        labels = [label for response in example.responses for label in response.step_rewards or ()]
        if not labels:
            return None
        if len(labels) != len(rewards):
            raise LuthierError(
                f"the row has {len(labels)} judged steps, the model gave {len(rewards)} rewards",
                where=str(example.source) if example.source else "step_accuracy",
                fix="score steps with a process reward model (`objective: process_reward`)",
            )
        told = [
            _right(logit, 0.0) if label > 0 or (label == 0 and self.neutral == "positive") else _right(0.0, logit)
            for logit, label in zip(rewards, labels, strict=True)
            if label != 0 or self.neutral != "ignore"
        ]
        return (math.fsum(told), float(len(told))) if told else None


def pairs(example: Example) -> list[tuple[int, int]]:
    """Places of the better and the worse response of every two whose scores differ."""
    scores = [math.nan if response.reward is None else response.reward for response in example.responses]
    places = range(len(scores))
    return [(one, other) for one in places for other in places if scores[one] > scores[other]]


def _right(better: float, worse: float) -> float:
    return 0.5 if better == worse else float(better > worse)
