"""Systems side by side on a task: the same prompts, the same scorers, and how sure the difference is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.evaluate.bootstrap import estimates
from luthier.evaluate.comparison import Answer, Comparison, Sample, Score, record
from luthier.run import Run
from luthier.scorers import SCORERS
from luthier.scorers.metric import Metric, reference
from luthier.types import RAW, Completion, Engine, Example, Response, Sampling, Scorer, Turn

if TYPE_CHECKING:
    from rich.progress import Progress

    from luthier.data.template import Template
    from luthier.recipe.schema import Plugin, Task

T = TypeVar("T")

BATCH = 64
"""Rows handed to an engine at once; also the step of the progress bar."""


@dataclass(frozen=True)
class _Mean(Metric):
    """A third party's scorer that does not derive from Metric: a corpus has the mean of its scores."""

    scorer: Scorer

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.scorer(example, response)


@dataclass(frozen=True)
class _Outcome:
    """What one system answered: for each metric the response it judges, row by row."""

    completions: list[Completion] | None
    responses: Mapping[str, list[Response]]
    seconds: float


def compare(
    task: Task,
    examples: Sequence[Example],
    template: Template,
    engines: Mapping[str, Engine],
    *,
    run: Run | None = None,
    seed: int = 0,
) -> Comparison:
    """Score each engine on the examples; the first engine is the baseline of the differences.

    Generates where a scorer judges words and asks for likelihoods where one needs them; shows progress on stderr. With
    a run, samples and scores are written into its folder (`record`). Raises LuthierError for no rows, a row without a
    prompt where words are asked for, and a scorer that can judge no row at all; all of these before generating.
    """
    metrics = {_label(plugin): _metric(plugin) for plugin in task.scorers}
    rows = tuple(examples[: task.limit])
    _check(task, metrics, rows)
    questions = _Questions(task, rows, template, seed)
    with _progress() as progress:
        outcomes = {name: questions.put_to(engine, metrics, progress, name) for name, engine in engines.items()}
    verdicts = {label: _Verdicts.of(label, metric, rows, outcomes) for label, metric in metrics.items()}
    comparison = Comparison(
        task=task.name,
        systems=tuple(outcomes),
        scores=tuple(verdict.score(seed) for verdict in verdicts.values()),
        samples=tuple(_sample(index, row, verdicts, outcomes) for index, row in enumerate(rows)),
        seconds={name: outcome.seconds for name, outcome in outcomes.items()},
        cut={
            name: sum(completion.finish == "length" for completion in outcome.completions or ())
            for name, outcome in outcomes.items()
        },
    )
    if run is not None:
        record(run, comparison)
    return comparison


def _metric(plugin: Plugin) -> Metric:
    scorer = SCORERS.build(plugin.name, plugin.args)
    return scorer if isinstance(scorer, Metric) else _Mean(scorer)


def _label(plugin: Plugin) -> str:
    args = ", ".join(f"{key}={value}" for key, value in plugin.args.items())
    return f"{plugin.name} ({args})" if args else plugin.name


def _check(task: Task, metrics: Mapping[str, Metric], rows: Sequence[Example]) -> None:
    """Refuse, before anything is generated, what could only end without a score."""
    if not rows:
        raise LuthierError(f"the task {task.name!r} has no rows to score", fix="look at its `data:` and `limit:`")
    if all(metric.needs_likelihood for metric in metrics.values()):
        return
    for row in rows:
        if not row.prompt:
            raise LuthierError(
                f"the task {task.name!r} has a row without a prompt to answer",
                where=str(row.source) if row.source else None,
                fix="plain text can be scored by `perplexity` alone",
            )
    for label, metric in metrics.items():
        if metric.needs_likelihood:
            continue
        # a reference that cannot be judged against itself has nothing to say about answers either
        if all(metric(row, Response((Turn("assistant", reference(row) or ""),))) is None for row in rows):
            raise _unjudged(task, label, len(rows))


def _unjudged(task: Task, label: str, rows: int) -> LuthierError:
    return LuthierError(
        f"the scorer {label!r} can judge none of the {rows} rows of the task {task.name!r}: "
        "they have no answer, or none of the kind it compares",
        fix="give the rows an `answer` (or a last assistant turn), or take another scorer",
    )


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


@dataclass(frozen=True)
class _Questions:
    """The rows of a task as every engine is asked them."""

    task: Task
    rows: tuple[Example, ...]
    template: Template
    seed: int

    def put_to(self, engine: Engine, metrics: Mapping[str, Metric], progress: Progress, name: str) -> _Outcome:
        start = time.perf_counter()
        completions, likelihoods = None, [Response(())] * len(self.rows)
        if not all(metric.needs_likelihood for metric in metrics.values()):
            completions = self._completions(engine, progress, name)
        if any(metric.needs_likelihood for metric in metrics.values()):
            likelihoods = self._likelihoods(engine, progress, name)
        words = [Response((Turn("assistant", completion.text),), by=name) for completion in completions or ()]
        responses = {label: likelihoods if metric.needs_likelihood else words for label, metric in metrics.items()}
        return _Outcome(completions, responses, time.perf_counter() - start)

    def _completions(self, engine: Engine, progress: Progress, name: str) -> list[Completion]:
        prompts = [self.template.prompt_ids(row.prompt, row.tools) for row in self.rows]
        sampling = Sampling(max_new_tokens=self.task.max_new_tokens, temperature=self.task.temperature)

        def generate(chosen: Sequence[int]) -> list[Completion]:
            # another seed for each batch, or equal places of different batches would draw equal random numbers
            drawn = replace(sampling, seed=self.seed + chosen[0])
            return engine.generate([prompts[index] for index in chosen], drawn)

        return _batched(generate, [len(prompt) for prompt in prompts], progress, f"{name}: answers")

    def _likelihoods(self, engine: Engine, progress: Progress, name: str) -> list[Response]:
        """The reference of each row with the log-probability of each of its tokens; no `logp` where there is none."""
        references = [_reference_response(row) for row in self.rows]
        known = [index for index, response in enumerate(references) if response.turns]
        encoded = [
            self.template.encode(replace(self.rows[index], responses=(references[index],)), score="last")
            for index in known
        ]

        def likelihood(chosen: Sequence[int]) -> list[NDArray[np.float32]]:
            return engine.score([encoded[index] for index in chosen])

        logps = _batched(likelihood, [len(row) for row in encoded], progress, f"{name}: likelihoods")
        for index, logp in zip(known, logps, strict=True):
            references[index] = replace(references[index], logp=tuple(logp.tolist()), by=name)
        return references


def _reference_response(row: Example) -> Response:
    """The first response, or the answer as one; without turns when the row has neither.

    Turn weights are taken off: they say what trains, not what is judged.
    """
    if row.responses:
        first = row.responses[0]
        return replace(first, turns=tuple(replace(turn, weight=None) for turn in first.turns))
    if row.answer is None:
        return Response(())
    role = RAW if all(turn.role == RAW for turn in row.prompt) else "assistant"
    return Response((Turn(role, row.answer),))


def _batched(
    ask: Callable[[Sequence[int]], Sequence[T]], lengths: Sequence[int], progress: Progress, title: str
) -> list[T]:
    """Ask for the rows in batches of like length, the longest first (what does not fit in memory shows at once)."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    bar = progress.add_task(title, total=len(order))
    answers: dict[int, T] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        answers.update(zip(chosen, ask(chosen), strict=True))
        progress.advance(bar, len(chosen))
    return [answers[index] for index in range(len(lengths))]


@dataclass(frozen=True)
class _Verdicts:
    """What one metric says of every row of every system: the statistics of each row, None where it cannot judge."""

    label: str
    metric: Metric
    statistics: Mapping[str, list[tuple[float, ...] | None]]

    @classmethod
    def of(cls, label: str, metric: Metric, rows: Sequence[Example], outcomes: Mapping[str, _Outcome]) -> _Verdicts:
        statistics = {
            name: [metric.statistics(*pair) for pair in zip(rows, outcome.responses[label], strict=True)]
            for name, outcome in outcomes.items()
        }
        return cls(label, metric, statistics)

    def score(self, seed: int) -> Score:
        """The value of each system over the rows that every system could be judged on, which makes pairs of them."""
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
        systems, difference = estimates(self.metric, stacked, seed)
        return Score(
            scorer=self.label,
            higher_is_better=self.metric.higher_is_better,
            range=self.metric.range,
            rows=len(judged),
            unscored=rows - len(judged),
            systems=systems,
            difference=difference,
        )

    def of_row(self, name: str, index: int) -> float | None:
        """The score of one row: what a corpus of this row alone would have."""
        statistics = self.statistics[name][index]
        return None if statistics is None else float(self.metric.pooled(np.array([statistics], dtype=np.float64))[0])


def _sample(index: int, row: Example, verdicts: Mapping[str, _Verdicts], outcomes: Mapping[str, _Outcome]) -> Sample:
    answers = {}
    for name, outcome in outcomes.items():
        completion = outcome.completions[index] if outcome.completions is not None else None
        answers[name] = Answer(
            text=completion.text if completion else None,
            finish=completion.finish if completion else None,
            scores={label: verdict.of_row(name, index) for label, verdict in verdicts.items()},
        )
    return Sample(row, reference(row), answers)
