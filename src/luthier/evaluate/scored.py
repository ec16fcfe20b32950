"""What judges the rows of a task: its scorers, each built once and handed on from the checks to the scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.evaluate.benchmarks import BENCHMARKS
from luthier.scorers.building import built
from luthier.scorers.metric import Metric
from luthier.types import Example, Sampling

if TYPE_CHECKING:
    from luthier.data.encode.template import Template
    from luthier.evaluate.benchmarks.benchmark import Benchmark
    from luthier.recipe.schema import Plugin, Task


@dataclass(frozen=True, eq=False)
class ScoredTask:
    """A task with its benchmark and its scorers built. Raises LuthierError, when they are first asked for, where one
    cannot be."""

    task: Task

    @cached_property
    def benchmark(self) -> Benchmark | None:
        """What is asked, where that is no rows of the recipe's own."""
        named = self.task.benchmark
        return None if named is None else BENCHMARKS.build(named.name, named.args)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The scorers by their labels, the headline first."""
        if self.benchmark is not None:
            return self.benchmark.metrics()
        return {label(plugin): built(plugin) for plugin in self.task.scorers}

    @cached_property
    def sampling(self) -> Sampling:
        """How answers are drawn, the seed apart."""
        if self.benchmark is not None:
            return self.benchmark.sampling
        return Sampling(max_new_tokens=self.task.max_new_tokens, temperature=self.task.temperature)

    def rows(self, examples: Sequence[Example], template: Template, context: int | None) -> tuple[Example, ...]:
        """The rows that are scored, as a model of this template and context is asked them."""
        if self.benchmark is not None:
            return tuple(self.benchmark.fitted(examples, template, context))
        return tuple(examples[: self.task.limit])

    @property
    def draws(self) -> int:
        """How many answers to each prompt."""
        return self.task.best_of if self.benchmark is None else self.benchmark.draws

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
