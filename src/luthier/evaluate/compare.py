"""Systems side by side on a task: the same prompts, the same scorers, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.evaluate.asking import BATCH, Judge, Outcome, Questions, System, judges_words
from luthier.evaluate.comparison import Answer, Comparison, Sample, number, record
from luthier.evaluate.verdicts import Verdict, verdicts
from luthier.run import Run
from luthier.scorers import SCORERS
from luthier.scorers.metric import Metric, reference, text
from luthier.scorers.preference import Judgement
from luthier.types import Engine, Example, Response, Scorer, Turn

if TYPE_CHECKING:
    from rich.progress import Progress

    from luthier.data.template import Template
    from luthier.recipe.schema import Plugin, Task

__all__ = ["BATCH", "compare"]


@dataclass(frozen=True)
class _Mean(Metric):
    """A third party's scorer that does not derive from Metric: a corpus has the mean of its scores."""

    scorer: Scorer

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.scorer(example, response)


def compare(
    task: Task,
    examples: Sequence[Example],
    template: Template,
    engines: Mapping[str, Engine],
    *,
    judges: Mapping[str, Judge] | None = None,
    run: Run | None = None,
    seed: int = 0,
) -> Comparison:
    """Score each engine on the examples; the first engine is the baseline of the differences.

    Generates where a scorer judges words, asks for likelihoods where one needs them, and for the rewards of the row's
    own responses (`judges`, by engine) where one judges those; shows progress on stderr. With `task.best_of` several
    answers are drawn and the one that `task.by` likes best stands for the system. With a run, samples and scores are
    written into its folder (`record`). Raises LuthierError for no rows, a row without a prompt where words are asked
    for, and a scorer that can judge no row at all; all of these before generating.
    """
    metrics = {_label(plugin): _metric(plugin) for plugin in task.scorers}
    by = (_label(task.by), _metric(task.by)) if task.by is not None and task.best_of > 1 else None
    rows = tuple(examples[: task.limit])
    systems = [System(name, engine, (judges or {}).get(name)) for name, engine in engines.items()]
    _check(task, metrics, rows, systems)
    if by is not None:
        by[1].check()
    questions = Questions(task, rows, template, seed, by[1] if by else None)
    with _progress() as progress:
        outcomes = {system.name: questions.put_to(system, metrics, progress) for system in systems}
    found = verdicts(metrics, rows, outcomes, task.best_of, by)
    comparison = Comparison(
        task=task.name,
        systems=tuple(outcomes),
        scores=tuple(verdict.score(seed) for verdict in found),
        samples=tuple(_sample(index, row, found, outcomes) for index, row in enumerate(rows)),
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
    args = ", ".join(f"{key}={_shown(value)}" for key, value in plugin.args.items() if value is not None)
    return f"{plugin.name} ({args})" if args else plugin.name


def _shown(value: Any) -> Any:
    """A folder is told by its name."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _check(task: Task, metrics: Mapping[str, Metric], rows: Sequence[Example], systems: Sequence[System]) -> None:
    """Refuse, before anything is generated, what could only end without a score."""
    if not rows:
        raise LuthierError(f"the task {task.name!r} has no rows to score", fix="look at its `data:` and `limit:`")
    for label, metric in metrics.items():
        metric.check()
        if isinstance(metric, Judgement):
            _check_judgement(task, label, metric, rows, systems)
    if not any(judges_words(metric) for metric in metrics.values()):
        return
    for row in rows:
        if not row.prompt:
            raise LuthierError(
                f"the task {task.name!r} has a row without a prompt to answer",
                where=str(row.source) if row.source else None,
                fix="plain text can be scored by `perplexity` alone",
            )
    for label, metric in metrics.items():
        if not judges_words(metric) or not metric.needs_reference:
            continue
        # a reference that cannot be judged against itself has nothing to say about answers either
        if all(metric(row, Response((Turn("assistant", reference(row) or ""),))) is None for row in rows):
            raise LuthierError(
                f"the scorer {label!r} can judge none of the {len(rows)} rows of the task {task.name!r}: "
                "they have no answer, or none of the kind it compares",
                fix="give the rows an `answer` (or a last assistant turn), or take another scorer",
            )


def _check_judgement(
    task: Task, label: str, metric: Judgement, rows: Sequence[Example], systems: Sequence[System]
) -> None:
    if not any(metric.judges(row) for row in rows):
        raise LuthierError(
            f"the scorer {label!r} can judge none of the {len(rows)} rows of the task {task.name!r}: {metric.lacking}",
            fix="give rows of that kind, or take another scorer",
        )
    for system in systems:
        if system.judge is None:
            raise LuthierError(
                f"the scorer {label!r} needs a model that rewards responses, and {system.name!r} does not",
                where=task.name,
                fix="it is for runs of preference and reward objectives (dpo, kto, reward, …)",
            )


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _sample(index: int, row: Example, found: Sequence[Verdict], outcomes: Mapping[str, Outcome]) -> Sample:
    answers = {}
    for name, outcome in outcomes.items():
        completion = outcome.completions[index] if outcome.completions is not None else None
        rewards = outcome.rewards[index] if outcome.rewards is not None and completion is None else ()
        answers[name] = Answer(
            text=completion.text if completion else f"rewards {', '.join(map(number, rewards))}" if rewards else None,
            finish=completion.finish if completion else None,
            scores={verdict.label: verdict.of_row(name, index) for verdict in found},
        )
    judged = len(row.responses) > 1 and any(isinstance(verdict.metric, Judgement) for verdict in found)
    return Sample(row, _ranked(row) if judged else reference(row), answers)


def _ranked(row: Example) -> str:
    """The responses that were judged, in the order of their rewards, each behind the score it has in the data."""
    scored = ((response, "no score" if response.score is None else f"{response.score:g}") for response in row.responses)
    return "\n\n".join(f"({score}) {text(response)}" for response, score in scored)
