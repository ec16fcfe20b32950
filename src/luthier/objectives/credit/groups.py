"""Estimators without a critic: what a response was worth, less what others to the prompt, or of the rollout, were.

Rewards at single tokens count from the token on: what came before it is not its merit. The responses' own mean of that,
at the same place, is taken off; the reward of the whole counts at every token.

Shape suffixes: G = responses to a prompt, or of a rollout; T = tokens of the longest of them, or of one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from luthier.objectives.credit import Credit, Floats, Group, Judged, Worth
from luthier.recipe.schema import Float, Why

SAME = 1e-12
"""Responses whose worth differs by less than this share of it are worth the same: a mean has rounding of its own."""


@dataclass(frozen=True)
class Beside(Credit):
    """An estimator that looks at responses beside one another: those to one prompt, unless it says otherwise."""

    @property
    def across(self) -> bool:
        """No."""
        return False

    def __call__(self, groups: Sequence[Group]) -> list[list[Worth]]:
        """The worth of every response, in order."""
        return [_each(group, _advantages(group, self.of)) for group in groups]

    @abstractmethod
    def of(self, worth_GT: Floats) -> Floats:
        """The advantages of two responses at least, all of them judged, out of what came from each token on: G x T."""


@dataclass(frozen=True)
class Normalised(Beside):
    """What a response was worth, less the group's mean, by its spread (GRPO, arXiv:2402.03300).

    A group of one, and one whose responses are all worth the same, teaches nothing: 0.
    """

    scale: Annotated[Literal["std", "none"], Why("the paper's; none is Dr.GRPO's")] = "std"
    """Divide by the standard deviation of the group's worth (over n - 1, plus 1e-4), or not (arXiv:2503.20783). Where
    rewards differ from token to token, by the root of its mean square over places."""

    def of(self, worth_GT: Floats) -> Floats:
        """Less the mean, by the spread."""
        above_GT = worth_GT - worth_GT.mean(0)
        return above_GT if self.scale == "none" else above_GT / (np.sqrt(worth_GT.var(0, ddof=1).mean()) + 1e-4)


@dataclass(frozen=True)
class LeaveOneOut(Beside):
    """What a response was worth, less the mean of the others in its group (RLOO, arXiv:2402.14740): n / (n - 1) of what
    is above the group's mean. Its gradient is unbiased."""

    def of(self, worth_GT: Floats) -> Floats:
        """Less the mean of the others."""
        return (worth_GT - worth_GT.mean(0)) * len(worth_GT) / (len(worth_GT) - 1)


@dataclass(frozen=True)
class Batch(LeaveOneOut):
    """What a response was worth, less the mean of all others of the rollout, whatever their prompt: REINFORCE with a
    baseline, for one response to a prompt too."""

    @property
    def across(self) -> bool:
        """Yes."""
        return True

    def __call__(self, groups: Sequence[Group]) -> list[list[Worth]]:
        """The worth of every response, in order."""
        (found,) = super().__call__([[one for group in groups for one in group]])
        return _regrouped(found, groups)


@dataclass(frozen=True)
class Whitened(Credit):
    """What came from each token on, brought to mean 0 and variance 1 over all tokens of the rollout (REINFORCE++,
    arXiv:2501.03262)."""

    baseline: Annotated[Literal["none", "group"], Why("the paper's first form")] = "none"
    """group: the group's mean is taken off first (the form with a baseline, for several responses to a prompt)."""
    gamma: Annotated[Float, Field(gt=0, le=1)] = 1.0
    """How much of what comes a token later counts."""

    @property
    def across(self) -> bool:
        """Unless the group's mean is taken off first."""
        return self.baseline == "none"

    def __call__(self, groups: Sequence[Group]) -> list[list[Worth]]:
        """The worth of every response, in order."""
        around = [[one.to_come_T(self.gamma) for one in group] for group in groups]
        if self.baseline == "group":
            around = [_advantages(group, lambda worth_GT: worth_GT - worth_GT.mean(0)) for group in groups]
        judged = [one for group in groups for one in group]
        whitened = whiten([advantage_T for each in around for advantage_T in each], judged)
        return _regrouped([Worth(advantage_T) for advantage_T in whitened], groups)


@dataclass(frozen=True)
class Fixed(Credit):
    """What came from each token on, less a number: for rewards that have a natural middle, such as the probability of
    being preferred, whose middle is one half."""

    baseline: Annotated[Float, Why("rewards as they are")] = 0.0
    """The number that is taken off."""

    def __call__(self, groups: Sequence[Group]) -> list[list[Worth]]:
        """The worth of every response, in order."""
        return [_each(group, [one.to_come_T() - self.baseline for one in group]) for group in groups]


def whiten(advantages: Sequence[Floats], judged: Sequence[Judged]) -> list[Floats]:
    """Mean 0 and variance 1 over all tokens of the responses that are judged; 0 for the others. One token, or tokens
    that are all worth the same: 0."""
    counted = [one_T for one_T, each in zip(advantages, judged, strict=True) if not np.isnan(each.reward)]
    every = np.concatenate(counted) if counted else np.zeros(0)
    if every.size < 2 or _same(every[:, None]):
        return [np.zeros(each.tokens) for each in judged]
    mean, spread = every.mean(), np.sqrt(every.var(ddof=1) + 1e-8)
    return [
        np.zeros(each.tokens) if np.isnan(each.reward) else (one_T - mean) / spread
        for one_T, each in zip(advantages, judged, strict=True)
    ]


def _advantages(group: Group, of: Callable[[Floats], Floats]) -> list[Floats]:
    """`of` on the judged responses of a group; 0 where there is nothing to compare, and for those not judged."""
    known = [one for one in group if not np.isnan(one.reward)]
    longest = max((one.tokens for one in known), default=0)
    worth_GT = np.zeros((len(known), longest))
    for row_T, one in zip(worth_GT, known, strict=True):
        row_T[:] = one.reward
        if one.rewards_T is not None:
            row_T[: one.tokens] += one.to_come_T() - one.reward
    found_GT = of(worth_GT) if len(known) > 1 and not _same(worth_GT) else np.zeros_like(worth_GT)
    rows = iter(found_GT)
    return [np.zeros(one.tokens) if np.isnan(one.reward) else next(rows)[: one.tokens] for one in group]


def _same(worth_GT: Floats) -> bool:
    """Is nothing better than anything else, at any place?"""
    size = np.abs(worth_GT).max(initial=0.0)
    return bool((np.ptp(worth_GT, 0) <= SAME * size).all()) if worth_GT.size else True


def _each(group: Group, advantages: Sequence[Floats]) -> list[Worth]:
    unknown = (np.isnan(one.reward) for one in group)
    return [
        Worth(np.zeros_like(one_T) if nothing else one_T) for one_T, nothing in zip(advantages, unknown, strict=True)
    ]


def _regrouped(found: Sequence[Worth], groups: Sequence[Group]) -> list[list[Worth]]:
    left = iter(found)
    return [[next(left) for _ in group] for group in groups]
