"""What judges the rows of a task: its scorers, each built once and handed on from the checks to the scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.scorers import SCORERS
from luthier.scorers.groups import score_group, sees_group
from luthier.scorers.metric import Metric
from luthier.types import Example, Response, Scorer

if TYPE_CHECKING:
    from luthier.recipe.schema import Plugin, Task


@dataclass(frozen=True, eq=False)
class ScoredTask:
    """A task with its scorers built. Raises LuthierError, when they are first asked for, where one cannot be."""

    task: Task

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The scorers by their labels, the headline first."""
        return {label(plugin): _built(plugin) for plugin in self.task.scorers}

    @cached_property
    def by(self) -> tuple[str, Metric] | None:
        """The scorer that picks among several answers, with its label."""
        task = self.task
        return (label(task.by), _built(task.by)) if task.by is not None and task.best_of > 1 else None

    @property
    def needs_rewards(self) -> bool:
        """Does a scorer judge the model's own rewards?"""
        return any(metric.needs_rewards for metric in self.metrics.values())


def label(plugin: Plugin) -> str:
    """What a scorer's scores are called: its name, and the keys that are given."""
    args = ", ".join(f"{key}={_shown(value)}" for key, value in plugin.args.items() if value is not None)
    return f"{plugin.name} ({args})" if args else plugin.name


def _shown(value: Any) -> Any:
    """A folder is told by its name."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _built(plugin: Plugin) -> Metric:
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
