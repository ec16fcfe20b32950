"""What is judged of likelihoods: which of several texts a model finds likeliest behind a question.

Shape suffixes: B = totals asked for at once, K = statistics of a row, C = choices of a row, N = rows.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from luthier.scorers.metric import Metric, text
from luthier.types import Example, Response

Chosen = tuple[Example, Sequence[float]]
"""A row, and the log-probability of each of its responses."""
Statistics = tuple[float, ...] | None


class ChoiceMetric(Metric):
    """A metric of the likelihoods of a row's own responses: which is likeliest. `meta["gold"]` says which are right."""

    needs_choices: ClassVar[bool] = True
    by_length: ClassVar[bool] = False
    """Are likelihoods divided by the lengths of the texts before the likeliest is picked?"""

    def __call__(self, example: Example, response: Response) -> float | None:
        return None  # it judges all responses of a row beside one another

    def lacks(self, example: Example) -> str | None:
        return None if len(example.responses) > 1 and gold(example) else "no choices, or none that is right"

    def pick(self, example: Example, logps_C: Sequence[float]) -> int:
        """The likeliest, the earliest of equals."""
        return picked(example, logps_C, by_length=self.by_length)

    @abstractmethod
    def of_choices(self, rows: Sequence[Chosen]) -> list[Statistics]:
        """What each row adds to the sums; None where it cannot be judged."""


def gold(example: Example) -> tuple[int, ...]:
    """Which of a row's responses are right."""
    return tuple(example.meta.get("gold", ()))


def picked(example: Example, logps_C: Sequence[float], *, by_length: bool = False) -> int:
    """Which response is likeliest; `by_length`: per character (`meta["lengths"]`, else those of the texts)."""
    known = example.meta.get("lengths") or [len(text(response)) for response in example.responses]
    lengths = [max(1, length) if by_length else 1 for length in known]
    return int(np.argmax(np.asarray(logps_C, np.float64) / np.asarray(lengths, np.float64)))


@dataclass(frozen=True)
class Likeliest(ChoiceMetric):
    """1 when the likeliest choice is right, otherwise 0 (acc)."""

    def of_choices(self, rows: Sequence[Chosen]) -> list[Statistics]:
        return [
            (float(self.pick(row, logps_C) in gold(row)), 1.0) if gold(row) and len(logps_C) else None
            for row, logps_C in rows
        ]


@dataclass(frozen=True)
class LikeliestByLength(Likeliest):
    """The same, where a choice's likelihood is taken per character: longer choices are not punished (acc_norm)."""

    by_length: ClassVar[bool] = True


@dataclass(frozen=True)
class TrueMass(ChoiceMetric):
    """How much of the probability of all choices the right ones have (TruthfulQA's MC2)."""

    def of_choices(self, rows: Sequence[Chosen]) -> list[Statistics]:
        found: list[Statistics] = []
        for row, logps_C in rows:
            shares_C = np.exp(np.asarray(logps_C, np.float64) - max(logps_C)) if len(logps_C) else np.zeros(0)
            right = [place for place in gold(row) if place < len(shares_C)]
            found.append((float(shares_C[right].sum() / shares_C.sum()), 1.0) if right else None)
        return found


@dataclass(frozen=True)
class Confusion(ChoiceMetric):
    """Of two choices: true and false positives and negatives; the second choice is the positive one."""

    positive: ClassVar[int] = 1

    def of_choices(self, rows: Sequence[Chosen]) -> list[Statistics]:
        """K = 4: true positives, false positives, false negatives, true negatives."""
        found: list[Statistics] = []
        for row, logps_C in rows:
            if not gold(row) or len(logps_C) != 2:
                found.append(None)
                continue
            is_, said = self.positive in gold(row), self.pick(row, logps_C) == self.positive
            cells = (is_ and said, not is_ and said, is_ and not said, not is_ and not said)
            found.append(tuple(map(float, cells)))
        return found


@dataclass(frozen=True)
class Matthews(Confusion):
    """Matthews' correlation of what is picked with what is right: 0 is chance, however uneven the classes are."""

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        tp, fp, fn, tn = totals_BK.T
        below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return _over(tp * tn - fp * fn, below)


@dataclass(frozen=True)
class PickedF1(Confusion):
    """F1 of the positive choice: the harmonic mean of precision and recall."""

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        tp, fp, fn, _ = totals_BK.T
        below = 2 * tp + fp + fn
        return _over(2 * tp, below)


@dataclass(frozen=True)
class Pearson(ChoiceMetric):
    """The correlation of the expected choice (choices are grades 0, 1, 2, …) with the grade in `meta["grade"]`."""

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def lacks(self, example: Example) -> str | None:
        return None if example.meta.get("grade") is not None else "no grade"

    def of_choices(self, rows: Sequence[Chosen]) -> list[Statistics]:
        """K = 6: the number of rows, sums of both, of their squares, and of their products."""
        known = [(row, logps_C) for row, logps_C in rows if self.lacks(row) is None and len(logps_C)]
        ours_N = self._spread([expected(logps_C) for _, logps_C in known])
        theirs_N = self._spread([float(row.meta["grade"]) for row, _ in known])
        sums = iter(zip(ours_N, theirs_N, strict=True))
        found: list[Statistics] = []
        for row, logps_C in rows:
            if self.lacks(row) is None and len(logps_C):
                x, y = next(sums)
                found.append((1.0, x, y, x * x, y * y, x * y))
            else:
                found.append(None)
        return found

    def _spread(self, values: Sequence[float]) -> list[float]:
        """The values as they are correlated, about their mean, so that no digits are lost in the sums."""
        mean = math.fsum(values) / len(values) if values else 0.0
        return [value - mean for value in values]

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        n, x, y, xx, yy, xy = totals_BK.T
        below = np.sqrt(np.maximum(0.0, n * xx - x * x) * np.maximum(0.0, n * yy - y * y))
        return _over(n * xy - x * y, below)


@dataclass(frozen=True)
class Spearman(Pearson):
    """The same of ranks: do they rise together, however steeply? Ranks are those among all rows."""

    def _spread(self, values: Sequence[float]) -> list[float]:
        return super()._spread(ranks(values))


def _over(above_B: NDArray[np.float64], below_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """A quotient, 0 where nothing is below."""
    found_B = np.zeros(len(below_B))
    np.divide(above_B, below_B, out=found_B, where=below_B > 0)
    return found_B


def expected(logps_C: Sequence[float]) -> float:
    """The mean place of the choices, by their probabilities."""
    shares_C = np.exp(np.asarray(logps_C, np.float64) - max(logps_C))
    return float((shares_C * np.arange(len(shares_C))).sum() / shares_C.sum())


def ranks(values: Sequence[float]) -> list[float]:
    """The place of each value among all, counted from 1; equal ones share the mean of their places."""
    values_N = np.asarray(values, np.float64)
    _, which_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return [float(ends[one] - (counts[one] - 1) / 2) for one in which_N]
