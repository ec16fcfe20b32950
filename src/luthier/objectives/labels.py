"""Objectives on single responses that are labelled good (score above 0.5) or bad: KTO and BCO.

Shape suffixes: N = rows (responses).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from luthier.objectives.base import Objective
from luthier.objectives.pairs import PREFERENCE_LR
from luthier.objectives.rows import Rows
from luthier.recipe.schema import Float, Why
from luthier.types import ROW, Needs


@dataclass(frozen=True)
class Labelled(Objective):
    """A loss of each response's reward r = beta * log-ratio and its label, one value a response."""

    beta: Annotated[Float, Field(gt=0), Why("the usual value; larger stays closer to the reference")] = 0.1
    """Weight of a response's log-ratio: how fast rewards grow as the model moves away from the reference."""
    default_lr: ClassVar[float | None] = PREFERENCE_LR

    def implicit_rewards(self, rows: Rows) -> Tensor:
        """beta * log-ratio of each response, N."""
        return self.beta * rows.log_ratio()


BALANCE = (1.0, 4 / 3)
"""Where KTO's authors want lambda_D n_D / (lambda_U n_U) to lie (eq. 8)."""


def _good(rows: Rows) -> Tensor:
    if rows.reward_N is None:
        raise ValueError("these rows have no labels")
    return rows.reward_N > 0.5


@dataclass(frozen=True)
class KTO(Labelled):
    """Kahneman-Tversky optimisation (arXiv:2402.01306): lambda_D sigma(-(r - z)) for a good response,
    lambda_U sigma(r - z) for a bad one.

    The baseline z = beta * max(0, mean log-ratio of mismatched pairs) estimates the divergence from the reference; it
    is measured over the whole step and has no gradient. lambda / 2 at the start.
    """

    lambda_desirable: Annotated[Float, Field(gt=0)] = 1.0
    """Weight of good responses (the paper's lambda_D). The ledger names what the balance of labels asks for."""
    lambda_undesirable: Annotated[Float, Field(gt=0)] = 1.0
    """Weight of bad responses (the paper's lambda_U)."""
    needs: ClassVar[Needs] = Needs(roles=("reference",), kl_baseline=True, labels=True, unit=ROW)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each response, N."""
        if rows.kl_baseline is None:
            raise ValueError("kto needs the log-ratio of mismatched pairs")
        good_N = _good(rows)
        above_N = self.implicit_rewards(rows) - self.beta * rows.kl_baseline.detach().clamp(min=0)
        weight_N = torch.where(good_N, self.lambda_desirable, self.lambda_undesirable)
        return weight_N * torch.sigmoid(torch.where(good_N, -above_N, above_N))

    def advice(self, good: int, bad: int) -> str | None:
        """The weights that the paper's rule asks for; None where 1 and 1 keep it, or a class is empty."""
        if not good or not bad:
            return None
        (low, high), ratio = BALANCE, good / bad
        if low <= ratio <= high:
            return None
        if ratio < low:
            rule = f"lambda_desirable to {low / ratio:.2f} … {high / ratio:.2f}"
        else:
            rule = f"lambda_undesirable to {ratio / high:.2f} … {ratio / low:.2f}"
        return (
            f"for these labels KTO's authors advise to set objective.kto.{rule}, so that λ_D n_D / (λ_U n_U) lies "
            "between 1 and 4/3"
        )

    @staticmethod
    def suggest(n_good: int, n_bad: int) -> tuple[float, float]:
        """(lambda_desirable, lambda_undesirable) for so many good and bad responses, by the paper's rule (eq. 8) that
        lambda_D n_D / (lambda_U n_U) should lie in [1, 4/3]: the nearer end of it, one weight staying 1.

        Raises ValueError where a class is empty.
        """
        if n_good < 1 or n_bad < 1:
            raise ValueError(f"{n_good} good and {n_bad} bad responses cannot be balanced")
        ratio = n_good / n_bad
        return max(1.0, 1 / ratio), max(1.0, ratio * 3 / 4)


GOOD_MEAN, GOOD_COUNT, BAD_MEAN, BAD_COUNT = "good_mean", "good_count", "bad_mean", "bad_count"
"""What BCO carries from step to step: the running mean reward of each class, and of how many responses."""


@dataclass(frozen=True)
class BCO(Labelled):
    """Binary classifier optimisation (arXiv:2404.04656): -log sigma(r - shift) for a good response,
    -w log sigma(-(r - shift)) for a bad one. log 2 at the start.

    The shift is the mean of the two classes' mean rewards, one half each however many there are of either, over all
    steps before this one (so that it does not hang on the split of the step); a class not seen yet counts as 0, the
    reward of an untrained model. Evaluation uses it and does not move it. w is 1, or with `density_ratio` how much
    likelier the prompt is among the good responses' prompts than among the bad ones' (`density.weights`).
    """

    density_ratio: bool = False
    """Weigh bad responses as if their prompts came from where the good ones' do, for labels gathered in two places."""
    needs: ClassVar[Needs] = Needs(roles=("reference",), labels=True, unit=ROW)

    def __post_init__(self) -> None:
        if self.density_ratio:
            self.need(row_weights=True)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each response, N."""
        good_N = _good(rows)
        above_N = self.implicit_rewards(rows) - self.reward_baseline(rows.state or {})
        loss_N = -logsigmoid(torch.where(good_N, above_N, -above_N))
        if not self.density_ratio:
            return loss_N
        if rows.weight_N is None:
            raise ValueError("bco with density_ratio needs a weight for each row")
        return torch.where(good_N, loss_N, rows.weight_N * loss_N)

    @staticmethod
    def reward_baseline(state: Mapping[str, float]) -> float:
        """The reward between good and bad."""
        return 0.5 * (state.get(GOOD_MEAN, 0.0) + state.get(BAD_MEAN, 0.0))

    def begin(self) -> dict[str, float]:
        """No response seen."""
        return dict.fromkeys((GOOD_MEAN, GOOD_COUNT, BAD_MEAN, BAD_COUNT), 0.0)

    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]:
        """The running means with a step's responses added."""
        new, implicit_N = {**self.begin(), **state}, implicit_N.detach().double()
        for mean, count, chosen_N in (
            (GOOD_MEAN, GOOD_COUNT, reward_N > 0.5),
            (BAD_MEAN, BAD_COUNT, reward_N <= 0.5),
        ):
            seen = int(chosen_N.sum())
            if seen:
                new[count] += seen
                new[mean] += (float(implicit_N[chosen_N].mean()) - new[mean]) * seen / new[count]
        return new
