"""A small classifier that was taught by labelled rows: logistic regression on hashed words and pairs of words."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from luthier.data.selecting.hashing import grams, place, text_of
from luthier.data.selecting.wording import words_of
from luthier.data.steps.measures import Column, Measure
from luthier.data.steps.step import holding
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.types import Example

SIZE = 1 << 16
LEAST = 20
"""Labelled rows; of fewer nothing can be learnt."""
STEPS = 300
Sparse = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Places of a row that are not 0, and what stands there."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Taught(Measure):
    """How good a small classifier finds a row, from 0 to 1. It learns from a few hundred rows with labels (yours, or a
    judge's scores), and reads a million rows in minutes, without a model."""

    weights: ClassVar[NDArray[np.float64] | None] = None
    known: ClassVar[str | None] = None

    by: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    """Files of labelled rows."""
    column: str = "reward"
    """Where the label stands: `reward` (or a row's own label), or a column of numbers. The least is bad, the highest
    good."""
    penalty: Annotated[float, Field(gt=0)] = 1.0
    """How little single words may count: a larger one holds fast to what many rows say."""

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """The labelled rows, until it has learnt."""
        return frozenset() if self.weights is not None else frozenset({"rows"})

    def identity(self) -> Any:
        return self.known

    def ready(self, tools: Tools) -> Self:
        if self.weights is not None:
            return self
        from luthier.data.reading.feeds import read

        rows = [row for path in self.by for row in read(path, keep=Column(self.column).reads)]
        labels_N = Column(self.column).measure(rows, tools) if rows else np.empty(0)
        there = np.flatnonzero(~np.isnan(labels_N))
        low, high = (labels_N[there].min(), labels_N[there].max()) if len(there) else (0.0, 0.0)
        if len(there) < LEAST or low == high:
            raise LuthierError(
                f"{len(there):,} of {len(rows):,} rows have a number in {self.column!r}, "
                + ("all the same" if len(there) >= LEAST else f"and it takes {LEAST} at least"),
                where=f"taught: {', '.join(self.by)}",
                fix="give rows with labels, good ones and bad ones, or name their column under `column`",
            )
        found = [sparse(rows[n]) for n in there.tolist()]
        weights = fit(found, (labels_N[there] - low) / (high - low), self.penalty)
        return holding(self, weights=weights, known=hashlib.blake2b(weights.tobytes(), digest_size=16).hexdigest())

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        assert self.weights is not None, "a step is made ready before it measures"
        weights = self.weights
        return np.array([_probability(one, weights) for one in map(sparse, batch)], np.float64)


def sparse(row: Example) -> Sparse:
    """A row's words and pairs of words, each once, and a 1 for the bias behind them; of length 1 together."""
    held: dict[int, float] = {}
    for gram in set(grams(words_of(text_of(row)))):
        at, sign = place(gram, SIZE)
        held[at] = held.get(at, 0.0) + sign
    norm = math.sqrt(math.fsum(value * value for value in held.values())) or 1.0
    places = sorted(held)
    return np.array([*places, SIZE], np.int64), np.array([*(held[at] / norm for at in places), 1.0])


def fit(rows: Sequence[Sparse], labels_N: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """The weights (the last is the bias, which is not penalised) that make the labels likeliest, by Nesterov's
    descent: sum of log-losses + penalty / 2 |w|²."""
    at = np.concatenate([places for places, _ in rows])
    values = np.concatenate([values for _, values in rows])
    owner = np.repeat(np.arange(len(rows)), [len(places) for places, _ in rows])
    held, at = np.unique(at, return_inverse=True)
    penalty_D = np.where(held == SIZE, 0.0, penalty)
    weights_D = ahead_D = np.zeros(len(held))
    rate, momentum = 1 / (len(rows) / 2 + penalty), 0.0  # |x|² = 2, so no curvature is above N / 4 · 2 + penalty
    for step in range(STEPS):
        logits_N = np.bincount(owner, values * ahead_D[at], minlength=len(rows))
        error_N = 1 / (1 + np.exp(-np.clip(logits_N, -500, 500))) - labels_N
        slope_D = np.bincount(at, values * error_N[owner], minlength=len(held)) + penalty_D * ahead_D
        before_D, weights_D = weights_D, ahead_D - rate * slope_D
        momentum = step / (step + 3)
        ahead_D = weights_D + momentum * (weights_D - before_D)
    whole = np.zeros(SIZE + 1)
    whole[held] = weights_D
    return whole


def _probability(row: Sparse, weights: NDArray[np.float64]) -> float:
    places, values = row
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, math.fsum(weights[places] * values)))))


__all__ = ["Taught", "fit", "sparse"]
