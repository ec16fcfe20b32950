"""Perplexity: how surprised the model is by the reference. It needs the model's likelihoods, not its words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from luthier.scorers.metric import Metric
from luthier.types import Example, Response


@dataclass(frozen=True)
class Perplexity(Metric):
    """exp of the mean negative log-likelihood per token of the reference; 1 is certainty.

    The reference is the first response of the row, otherwise its `answer`. A corpus weighs tokens, not rows, equally.
    Perplexities of models with different tokenizers do not compare.
    """

    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (1.0, math.inf)
    needs_likelihood: ClassVar[bool] = True

    def __call__(self, example: Example, response: Response) -> float | None:
        sums = self.statistics(example, response)
        return None if sums is None else float(self.pooled(np.array([sums]))[0])

    def statistics(self, example: Example, response: Response) -> tuple[float, ...] | None:
        """Negative log-likelihood in nats and tokens: K = 2. None without a scored token."""
        return (-math.fsum(response.logp), float(len(response.logp))) if response.logp else None

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):  # an impossible reference has infinite perplexity
            return np.exp(totals_BK[:, 0] / totals_BK[:, 1])
