"""What the scorers say of every row of every system, as statistics that add up; and of the answers picked from several.

Shape suffixes: B = totals asked for at once, K = statistics of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.evaluate.asking import Outcome, best, judges_words
from luthier.evaluate.comparison import Score
from luthier.evaluate.intervals import Estimate, estimates
from luthier.scorers.choices import ChoiceMetric
from luthier.scorers.groups import statistics_of_groups
from luthier.scorers.metric import Metric
from luthier.scorers.pass_at_k import PassAtK
from luthier.scorers.preference import Judgement
from luthier.types import Example, Response

Statistics = tuple[float, ...] | None
"""What one row adds to the sums; None where it cannot be judged."""


@dataclass(frozen=True)
class Gain(Metric):
    """How much better one set of answers does than another: the difference of a metric over paired statistics."""

    of: Metric

    def __call__(self, example: Example, response: Response) -> float | None:
        return None  # it compares two responses

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest difference there can be."""
        low, high = self.of.range
        return low - high, high - low

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        half = totals_BK.shape[1] // 2
        sign = 1.0 if self.of.higher_is_better else -1.0
        return sign * (self.of.pooled(totals_BK[:, :half]) - self.of.pooled(totals_BK[:, half:]))

    def gained(self, rows_NK: NDArray[np.float64], seed: int, clusters: Sequence[int]) -> Estimate:
        """What one system gains: its two sets of answers are two systems over the same rows."""
        half = rows_NK.shape[1] // 2
        sets = {"ours": rows_NK[:, :half], "theirs": rows_NK[:, half:]}
        first, later = ("theirs", "ours") if self.of.higher_is_better else ("ours", "theirs")
        _, difference = estimates(self.of, {first: sets[first], later: sets[later]}, seed, clusters)
        return difference[later]


@dataclass(frozen=True)
class Verdict:
    """What one metric says of every row of every system."""

    label: str
    metric: Metric
    statistics: Mapping[str, list[Statistics]]

    def score(self, seed: int, clusters: Sequence[int]) -> Score:
        """The value of each system over the rows that every system could be judged on, which makes pairs of them.

        `clusters`: the number of each row's cluster; rows of one cluster are no independent witnesses.
        """
        rows = len(next(iter(self.statistics.values())))
        judged = [index for index in range(rows) if all(each[index] is not None for each in self.statistics.values())]
        if not judged:
            raise LuthierError(
                f"the scorer {self.label!r} could judge no row for all of {', '.join(self.statistics)}",
                fix="give the rows an `answer` (or a last assistant turn), or take another scorer",
            )
        stacked = {
            name: np.array([each[index] for index in judged], dtype=np.float64)
            for name, each in self.statistics.items()
        }
        alike = [clusters[index] for index in judged]
        systems, difference = estimates(self.metric, stacked, seed, alike)
        if isinstance(self.metric, Gain):
            systems = {name: self.metric.gained(rows_NK, seed, alike) for name, rows_NK in stacked.items()}
        return Score(
            scorer=self.label,
            higher_is_better=self.metric.higher_is_better,
            range=self.metric.ends if isinstance(self.metric, Gain) else self.metric.range,
            rows=len(judged),
            unscored=rows - len(judged),
            prompts=len(set(alike)),
            systems=systems,
            difference=difference,
        )

    def of_row(self, name: str, index: int) -> float | None:
        """The score of one row: what a corpus of this row alone would have."""
        return _value(self.metric, self.statistics[name][index])


def verdicts(
    metrics: Mapping[str, Metric],
    rows: Sequence[Example],
    outcomes: Mapping[str, Outcome],
    best_of: int = 1,
    by: tuple[str, Metric] | None = None,
) -> list[Verdict]:
    """The verdict of each metric; where answers were picked out of several, four of them and the picks' worth."""
    found: list[Verdict] = []
    for label, metric in metrics.items():
        if by is not None and judges_words(metric):
            found += _picked(label, metric, rows, outcomes, best_of)
        else:
            found.append(Verdict(label, metric, {name: _plain(metric, rows, one) for name, one in outcomes.items()}))
    if by is not None and by[1] not in metrics.values():
        label, metric = by
        found.append(Verdict(f"{label}, of the picks", metric, {n: _worth(one) for n, one in outcomes.items()}))
    return found


def _plain(metric: Metric, rows: Sequence[Example], outcome: Outcome) -> list[Statistics]:
    if isinstance(metric, Judgement):
        assert outcome.rewards is not None
        return [metric.of_rewards(row, rewards) for row, rewards in zip(rows, outcome.rewards, strict=True)]
    if isinstance(metric, ChoiceMetric):
        assert outcome.choices is not None
        return metric.of_choices(list(zip(rows, outcome.choices, strict=True)))
    if metric.needs_likelihood:
        return metric.statistics_many(list(zip(rows, outcome.likelihoods, strict=True)))
    if isinstance(metric, PassAtK):
        return metric.of_drawn(outcome.drawn(rows))
    words = [[outcome.response(completion)] for completion in outcome.completions or ()]
    return [only for (only,) in statistics_of_groups(metric, list(zip(rows, words, strict=True)))]


def _picked(
    label: str, metric: Metric, rows: Sequence[Example], outcomes: Mapping[str, Outcome], best_of: int
) -> list[Verdict]:
    """The picks, the first draws, what picking gains, and (with a known truth) the best that picking could do."""
    picks: dict[str, list[Statistics]] = {}
    first: dict[str, list[Statistics]] = {}
    oracle: dict[str, list[Statistics]] = {}
    for name, outcome in outcomes.items():
        table = _of_candidates(metric, rows, outcome)
        picks[name] = [each[pick] for each, pick in zip(table, outcome.picks, strict=True)]
        first[name] = [each[0] for each in table]
        oracle[name] = [each[_truly_best(metric, each)] for each in table]
    gain = {name: [_both(a, b) for a, b in zip(picks[name], first[name], strict=True)] for name in outcomes}
    found = [
        Verdict(f"{label}, best of {best_of}", metric, picks),
        Verdict(f"{label}, first of {best_of}", metric, first),
        Verdict(f"{label}, gain of best over first", Gain(metric), gain),
    ]
    if metric.needs_reference:
        found.append(Verdict(f"{label}, oracle's best of {best_of}", metric, oracle))
    return found


def _of_candidates(metric: Metric, rows: Sequence[Example], outcome: Outcome) -> list[list[Statistics]]:
    return statistics_of_groups(metric, outcome.drawn(rows))


def _truly_best(metric: Metric, candidates: Sequence[Statistics]) -> int:
    sign = 1.0 if metric.higher_is_better else -1.0
    values = [_value(metric, each) for each in candidates]
    return best([None if value is None else sign * value for value in values])


def _worth(outcome: Outcome) -> list[Statistics]:
    values = [worth[pick] for worth, pick in zip(outcome.worth or [], outcome.picks, strict=True)]
    return [None if value is None else (value, 1.0) for value in values]


def _both(one: Statistics, other: Statistics) -> Statistics:
    return None if one is None or other is None else (*one, *other)


def _value(metric: Metric, statistics: Statistics) -> float | None:
    return None if statistics is None else float(metric.pooled(np.array([statistics], dtype=np.float64))[0])
