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


@dataclass(frozen=True)
class BitsPerByte(Perplexity):
    """Bits that the model would need for each byte of the text: it compares models with different tokenizers.

    Rows say in `meta["bytes"]` how long the judged text is."""

    range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    counts: ClassVar[str] = "bytes"

    def statistics(self, example: Example, response: Response) -> tuple[float, ...] | None:
        """Negative log-likelihood in nats and what is counted: K = 2. None where that is not known."""
        count = example.meta.get(self.counts)
        return None if count is None or not response.logp else (-math.fsum(response.logp), float(count))

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        return totals_BK[:, 0] / math.log(2) / np.maximum(totals_BK[:, 1], 1.0)


@dataclass(frozen=True)
class WordPerplexity(BitsPerByte):
    """Perplexity per word between spaces (`meta["words"]`) instead of per token."""

    range: ClassVar[tuple[float, float]] = (1.0, math.inf)
    counts: ClassVar[str] = "words"

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            return np.exp(totals_BK[:, 0] / np.maximum(totals_BK[:, 1], 1.0))
