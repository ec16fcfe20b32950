"""Any task of lm-evaluation-harness, with our engine as its model: `lm_eval: [lambada_openai, …]`. Prompts, filters and
metrics are the harness'; pairs, intervals and the report are ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from luthier.errors import LuthierError, missing_extra
from luthier.evaluate.benchmarks.benchmark import Asked, Benchmark, Item, Tell
from luthier.evaluate.comparison import Answer, Comparison, Sample, Score, tested
from luthier.evaluate.intervals import Estimate, estimates
from luthier.scorers.metric import Metric
from luthier.types import Engine, Example, Response, Source, Turn

if TYPE_CHECKING:
    from luthier.data.encode.template import Template

LOWER = ("perplexity", "bits_per_byte", "brier", "loss", "_err")
"""What stands in the names of metrics that are better when they are lower, where a task does not say it."""


@dataclass(frozen=True)
class LMEval(Benchmark):
    """Tasks of lm-evaluation-harness by their names: stock ones (from the hub), and those of files in a folder `path:`.
    A bare list is the tasks: `lm_eval: [hellaswag, arc_easy]`. Needs the extra `harness`."""

    usual: ClassVar[bool] = False
    likelihoods: ClassVar[bool] = True
    title: ClassVar[str] = "lm-evaluation-harness"
    paper: ClassVar[str] = ""

    path: str | None = None
    """A folder of tasks in the harness' YAML, beside the stock ones."""
    tasks: tuple[str, ...] = ()
    """Their names."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Solved examples before each. Default: as each task says."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("names no tasks: write `lm_eval: [hellaswag, …]`")

    def items(self, tell: Tell) -> list[Item]:
        return []

    def metrics(self) -> dict[str, Metric]:
        return {}

    @property
    def protocol(self) -> str:
        return f"{self.title} {_version()}: {super().protocol.partition(', ')[2]}"

    def ready(self) -> None:
        """Raise LuthierError where the harness is not installed, or has no such task."""
        self._dictionary()

    def _dictionary(self) -> Any:
        if find_spec("lm_eval") is None:
            raise missing_extra("lm_eval", "harness", "`lm_eval:`")
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=self.path)
        unknown = [name for name in self.tasks if not manager.match_tasks([name])]
        if unknown:
            what = f"lm-evaluation-harness has no task {', '.join(map(repr, unknown))}"
            raise LuthierError(
                what, where="evaluate", fix="`lm-eval ls tasks` lists them; `path:` names a folder of others"
            )
        return manager

    def compare(self, asked: Asked) -> Comparison:
        """Each system goes through the harness; rows are paired by task and number."""
        manager = self._dictionary()
        results = {name: self._run(engine, asked.template, manager) for name, engine in asked.engines.items()}
        scores = tuple(self._scores(results, asked.seed))
        if not scores:
            raise LuthierError("the harness gave no score", where="evaluate", fix="look at the tasks' `metric_list`")
        systems = tuple(asked.engines)
        return Comparison(
            task=asked.task.name,
            systems=systems,
            scores=tested(scores),
            samples=tuple(_samples(results)),
            seconds={name: found["seconds"] for name, found in results.items()},
            cut=dict.fromkeys(systems, 0),
            remarks=(self.protocol,),
        )

    def _run(self, engine: Engine, template: Template, manager: Any) -> dict[str, Any]:
        import time

        from lm_eval import simple_evaluate

        from luthier.evaluate.benchmarks.harness_model import model_of

        logging.getLogger("lm_eval").setLevel(logging.WARNING)
        start = time.perf_counter()
        try:
            found = simple_evaluate(
                model=model_of(engine, template),
                tasks=list(self.tasks),
                task_manager=manager,
                num_fewshot=self.shots,
                limit=self.limit,
                bootstrap_iters=0,
                apply_chat_template=self.template,
                random_seed=self.seed,
                numpy_random_seed=self.seed,
                torch_random_seed=self.seed,
                fewshot_random_seed=self.seed,
            )
        except LuthierError:
            raise
        except Exception as error:  # the harness, its tasks and the hub each raise their own
            first = str(error).strip().split("\n")[0] or type(error).__name__
            raise LuthierError(
                f"lm-evaluation-harness failed: {first}",
                where=", ".join(self.tasks),
                fix="stock tasks are fetched from the hub; without a network give files and a task of yours in `path:`",
            ) from error
        return {**(found or {}), "seconds": time.perf_counter() - start}

    def _scores(self, results: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[Score]:
        first = next(iter(results.values()))
        for task, samples in first["samples"].items():
            better = first.get("higher_is_better", {}).get(task, {})
            for name in samples[0].get("metrics", ()) if samples else ():
                label = name if len(first["samples"]) == 1 else f"{task} {name}"
                values = {system: _values(found["samples"][task], name) for system, found in results.items()}
                higher = better.get(name)
                if higher is None:
                    higher = not any(word in name for word in LOWER)
                told = {system: _told(found["results"].get(task, {}), name) for system, found in results.items()}
                yield _score(label, values, told, higher=higher, seed=seed)


class _Plain(Metric):
    """The mean of numbers that somebody else has given."""

    def __call__(self, example: Example, response: Response) -> float | None:
        return None


def _values(samples: Sequence[Mapping[str, Any]], name: str) -> list[float] | None:
    """The metric of each row in the order of the rows; None where it is no number of a row."""
    ordered = sorted(samples, key=lambda sample: (sample["doc_id"], str(sample.get("filter"))))
    first = ordered[0].get("filter")
    found = [sample.get(name) for sample in ordered if sample.get("filter") == first]
    numbers = [float(one) for one in found if isinstance(one, bool | int | float | np.number)]
    return numbers if len(numbers) == len(found) else None


def _told(results: Mapping[str, Any], name: str) -> float:
    """The value that the harness itself gives."""
    for key, value in results.items():
        if key.split(",")[0] == name and isinstance(value, int | float):
            return float(value)
    return float("nan")


def _score(
    label: str,
    values: Mapping[str, list[float] | None],
    told: Mapping[str, float],
    *,
    higher: bool,
    seed: int,
) -> Score:
    """With intervals where each row has a number, and their mean is what the harness tells; else its value alone."""
    whole = all(
        some is not None and (np.isnan(told[name]) or abs(float(np.mean(some)) - told[name]) < 1e-6)
        for name, some in values.items()
    )
    rows = max((len(some) for some in values.values() if some is not None), default=0)
    first = next(iter(values))
    if whole:
        stacked = {name: np.stack([np.array(some), np.ones(len(some or ()))], 1) for name, some in values.items()}
        systems, difference = estimates(_Plain(), stacked, seed)
        low = min(min(some) for some in values.values() if some)
        high = max(max(some) for some in values.values() if some)
    else:
        systems = {name: Estimate(value) for name, value in told.items()}
        difference = {name: Estimate(told[name] - told[first]) for name in told if name != first}
        low, high = -np.inf, np.inf
    ends = (0.0, 1.0) if low >= 0 and high <= 1 else (float(low), float(high))
    return Score(label, higher, ends, rows, 0, rows, systems, difference)


def _samples(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Sample]:
    """Each row with what every system made of it."""
    first = next(iter(results.values()))
    for task, rows in first["samples"].items():
        by_system = {
            name: {(row["doc_id"], row.get("filter")): row for row in found["samples"][task]}
            for name, found in results.items()
        }
        for row in sorted(rows, key=lambda row: row["doc_id"]):
            place = (row["doc_id"], row.get("filter"))
            prompt = str(row["arguments"][0][0]) if row.get("arguments") else ""
            example = Example((Turn("text", prompt),), source=Source(task, int(row["doc_id"]) + 1))
            answers = {}
            for name, some in by_system.items():
                own = some[place]
                marks = {one: _number(own.get(one)) for one in own.get("metrics", ())}
                labels = marks if len(first["samples"]) == 1 else {f"{task} {one}": v for one, v in marks.items()}
                answers[name] = Answer(str(own.get("filtered_resps")), None, labels)
            yield Sample(example, str(row.get("target")), answers)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float | np.number) else None


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return "(not installed)"
