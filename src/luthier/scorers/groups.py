"""Several responses to one prompt scored: beside one another where the scorer asks for that, else each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.errors import LuthierError
from luthier.scorers.metric import Metric
from luthier.types import Example, Response

Groups = Sequence[tuple[Example, Sequence[Response]]]


def sees_group(scorer: Any) -> bool:
    """Does a scorer (ours or a third party's) judge responses beside one another?"""
    return bool(getattr(scorer, "sees_group", False))


def score_group(scorer: Any, example: Example, responses: Sequence[Response]) -> list[float | None]:
    """The score of each response to one prompt, by a `Scorer` or a `GroupScorer`.

    Raises LuthierError where a scorer of groups gives another number of scores than there are responses.
    """
    if not sees_group(scorer):
        if isinstance(scorer, Metric):
            return scorer.many([(example, response) for response in responses])
        return [scorer(example, response) for response in responses]
    return _one_each(scorer, example, responses, list(scorer.group(example, responses)))


def score_groups(metric: Metric, groups: Groups) -> list[list[float | None]]:
    """`score_group` of many prompts, asked for at once."""
    if metric.sees_group:
        found = metric.groups(groups)
        return [_one_each(metric, *one, list(scores)) for one, scores in zip(groups, found, strict=True)]
    flat = iter(metric.many([(example, response) for example, responses in groups for response in responses]))
    return [[next(flat) for _ in responses] for _, responses in groups]


def _one_each(
    scorer: Any, example: Example, responses: Sequence[Response], found: list[float | None]
) -> list[float | None]:
    if len(found) != len(responses):
        raise LuthierError(
            f"{type(scorer).__name__}.group gave {len(found)} scores for {len(responses)} responses",
            where=str(example.source) if example.source else None,
            fix="let it give one score, or None, for each response in order",
        )
    return found


def statistics_of_groups(metric: Metric, groups: Groups) -> list[list[tuple[float, ...] | None]]:
    """What each response adds to the sums (`Metric.statistics`), in groups."""
    if metric.sees_group:
        scores = score_groups(metric, groups)
        return [[None if score is None else (score, 1.0) for score in some] for some in scores]
    flat = iter(metric.statistics_many([(row, response) for row, responses in groups for response in responses]))
    return [[next(flat) for _ in responses] for _, responses in groups]
