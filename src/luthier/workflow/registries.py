"""Every seam with its registry: where the kinds of plug-in that a recipe names are looked up."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.data import FORMATS, MATERIALS, STEPS
from luthier.data.scored import joined
from luthier.engines import ENGINES
from luthier.evaluate.benchmarks import BENCHMARKS
from luthier.models import ADAPTERS, EXPORTERS, QUANTIZERS
from luthier.objectives import OBJECTIVES
from luthier.objectives.credit import CREDITS
from luthier.recipe import Task
from luthier.registry import Registry
from luthier.scorers import SCORERS
from luthier.train import OPTIMIZERS, SCHEDULES, TRACKERS
from luthier.types import Example

REGISTRIES: dict[str, Registry] = {
    "objective": OBJECTIVES,
    "credit": CREDITS,
    "adapter": ADAPTERS,
    "quantizer": QUANTIZERS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "scorer": SCORERS,
    "tracker": TRACKERS,
    "exporter": EXPORTERS,
    "format": FORMATS,
    "material": MATERIALS,
    "engine": ENGINES,
    "step": STEPS,
    "benchmark": BENCHMARKS,
}
"""Kind → registry. The kinds are those of `recipe.schema.Seam`, the credit of objectives, the row shapes and
materials of `data.*.format`, and the engines."""


def _questions(task: Task) -> Iterator[Example]:
    """The questions of a benchmark, for what must not train."""
    assert task.benchmark is not None
    yield from BENCHMARKS.build(task.benchmark.name, task.benchmark.args).questions()


joined(_questions)
