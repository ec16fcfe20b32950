"""A scorer built from what a recipe says of it, as a `Metric` whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from luthier.recipe.schema import Plugin
from luthier.scorers import SCORERS
from luthier.scorers.groups import score_group, sees_group
from luthier.scorers.metric import Metric
from luthier.types import Example, Response, Scorer


def built(plugin: Plugin) -> Metric:
    """The scorer. Raises LuthierError where it cannot be built."""
    scorer = SCORERS.build(plugin.name, plugin.args)
    if isinstance(scorer, Metric):
        return scorer
    return _GroupMean(scorer) if sees_group(scorer) else _Mean(scorer)


@dataclass(frozen=True)
class _Mean(Metric):
    """A third party's scorer that does not derive from Metric: a corpus has the mean of its scores."""

    scorer: Scorer

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.scorer(example, response)


@dataclass(frozen=True)
class _GroupMean(_Mean):
    """The same for one that sees the responses to a prompt beside one another."""

    sees_group: ClassVar[bool] = True

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        return score_group(self.scorer, example, responses)
