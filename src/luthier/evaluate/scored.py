"""What judges the rows of a task: its scorers, each built once and handed on from the checks to the scoring."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.scorers.building import built
from luthier.scorers.metric import Metric

if TYPE_CHECKING:
    from luthier.recipe.schema import Plugin, Task


@dataclass(frozen=True, eq=False)
class ScoredTask:
    """A task with its scorers built. Raises LuthierError, when they are first asked for, where one cannot be."""

    task: Task

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The scorers by their labels, the headline first."""
        return {label(plugin): built(plugin) for plugin in self.task.scorers}

    @cached_property
    def by(self) -> tuple[str, Metric] | None:
        """The scorer that picks among several answers, with its label."""
        task = self.task
        return (label(task.by), built(task.by)) if task.by is not None and task.best_of > 1 else None

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
