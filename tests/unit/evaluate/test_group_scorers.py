"""Scorers that judge responses beside one another: asked for a whole group, by us and from a third party."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from test_best_of import Drawing, Letters, rows, values

from luthier.errors import LuthierError
from luthier.evaluate import ScoredTask, compare
from luthier.recipe.schema import Task
from luthier.scorers import SCORERS
from luthier.scorers.groups import score_group, score_groups, statistics_of_groups
from luthier.scorers.metric import Metric, text
from luthier.types import Example, GroupScorer, Response, Scorer, Turn


@dataclass(frozen=True)
class Longest:
    """The share of the others that a response is longer than; a third party's, no Metric."""

    sees_group: ClassVar[bool] = True

    def __call__(self, example: Example, response: Response) -> float | None:
        return None  # one alone is not longer than another

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        lengths = [len(text(response)) for response in responses]
        others = max(len(lengths) - 1, 1)
        return [sum(one > other for other in lengths) / others if one else None for one in lengths]


@dataclass(frozen=True)
class OfOurs(Metric):
    """The same as a Metric."""

    sees_group: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False

    def __call__(self, example: Example, response: Response) -> float | None:
        return None

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        return Longest().group(example, responses)


def said(*texts: str) -> list[Response]:
    return [Response((Turn("assistant", each),)) for each in texts]


ROW = Example((Turn("user", "?"),), answer="four")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCORERS, "_targets", {**SCORERS._targets, "longest": Longest, "of_ours": OfOurs})


@pytest.mark.parametrize("scorer", [Longest(), OfOurs()])
def test_a_group_is_ranked_within_itself(scorer: Any) -> None:
    assert isinstance(scorer, GroupScorer) and isinstance(scorer, Scorer)
    assert score_group(scorer, ROW, said("four", "a", "", "bbbbbb", "four")) == [0.5, 0.25, None, 1.0, 0.5]
    assert score_group(scorer, ROW, []) == []


def test_others_are_asked_for_each_response() -> None:
    exact = SCORERS.build("exact_match")
    responses = said("four", "five", "four")
    assert score_group(exact, ROW, responses) == [1.0, 0.0, 1.0]
    assert score_group(lambda _, response: float(len(text(response))), ROW, said("a", "bbb")) == [1.0, 3.0]
    groups = [(ROW, responses), (ROW, []), (ROW, said("four"))]
    assert score_groups(exact, groups) == [[1.0, 0.0, 1.0], [], [1.0]]
    assert statistics_of_groups(exact, groups)[0] == exact.statistics_many([(ROW, each) for each in responses])
    assert score_groups(OfOurs(), groups)[0] == [0.0, 0.0, 0.0]
    assert statistics_of_groups(OfOurs(), [(ROW, said("aa", "", "b"))]) == [[(1.0, 1.0), None, (0.5, 1.0)]]


def test_a_scorer_that_gives_too_few_scores_is_told_so() -> None:
    class Short(Longest):
        def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
            return [1.0]

    with pytest.raises(LuthierError, match=r"Short\.group gave 1 scores for 2 responses"):
        score_group(Short(), ROW, said("a", "b"))


@pytest.mark.parametrize("name", ["longest", "of_ours"])
def test_best_of_is_picked_and_scored_within_the_group(name: str, registered: None) -> None:
    engine = Drawing()
    task = Task(data=["x"], scorers=["f1", name], temperature=1.0, best_of=4, by=name)
    comparison = compare(ScoredTask(task), rows(20), Letters(), {"tuned": engine})
    for sample in comparison.samples:
        drawn = engine.said[sample.example.prompt[0].text]
        assert sample.answers["tuned"].text == max(drawn, key=len), "the earliest of the longest"
    found = values(comparison)
    assert found[f"{name}, best of 4"] > found[f"{name}, first of 4"]
