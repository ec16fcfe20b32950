"""Systems side by side on a task: the same prompts, the same scorers, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from luthier.engines.kept import Remembering
from luthier.errors import LuthierError
from luthier.evaluate.asking import BATCH, Judge, Outcome, Questions, System, judges_words
from luthier.evaluate.benchmarks.parts import parts
from luthier.evaluate.comparison import Answer, Comparison, Sample, number, tested
from luthier.evaluate.scored import ScoredTask
from luthier.evaluate.verdicts import Verdict, verdicts
from luthier.scorers.choices import ChoiceMetric
from luthier.scorers.metric import Metric, reference, text
from luthier.scorers.preference import Judgement
from luthier.types import Engine, Example, Response, Turn

if TYPE_CHECKING:
    from rich.progress import Progress

    from luthier.data.encode.template import Template
    from luthier.recipe.schema import Task

__all__ = ["BATCH", "check", "compare"]

SHOWN = 3
"""Rows named in a message."""
FEWEST_CLUSTERS = 10
"""So many clusters at least: how much they vary cannot be told of fewer."""


def compare(
    scored: ScoredTask,
    examples: Sequence[Example],
    template: Template,
    engines: Mapping[str, Engine],
    *,
    judges: Mapping[str, Judge] | None = None,
    seed: int = 0,
) -> Comparison:
    """Score each engine on the examples; the first engine is the baseline of the differences.

    Generates where a scorer judges words, asks for likelihoods where one needs them, and for the rewards of the row's
    own responses (`judges`, by engine) where one judges those; shows progress on stderr. With `task.best_of` several
    answers are drawn and the one that `task.by` likes best stands for the system. Raises LuthierError for no rows, a
    row without a prompt where words are asked for, and a scorer that can judge no row at all; all of these before
    generating.
    """
    task, metrics, by = scored.task, scored.metrics, scored.by
    contexts = [engine.context for engine in engines.values() if engine.context is not None]
    rows = scored.rows(examples, template, min(contexts, default=None))
    systems = [System(name, engine, (judges or {}).get(name)) for name, engine in engines.items()]
    _check(scored, rows)
    _check_judges(task, metrics, systems)
    questions = Questions(scored, rows, template, seed, by[1] if by else None)
    for system in systems:
        questions.check_lengths(metrics, system.engine.context)
    with _progress() as progress:
        outcomes = {system.name: questions.put_to(system, metrics, progress) for system in systems}
    found = verdicts(metrics, rows, outcomes, task.best_of, by)
    clusters = _clusters(rows)
    return Comparison(
        task=task.name,
        systems=tuple(outcomes),
        scores=tested(verdict.score(seed, clusters) for verdict in found),
        samples=tuple(_sample(index, row, found, outcomes) for index, row in enumerate(rows)),
        seconds={name: outcome.seconds for name, outcome in outcomes.items()},
        cut={
            name: sum(completion.finish == "length" for completion in outcome.completions or ())
            for name, outcome in outcomes.items()
        },
        parts=parts(found[0], rows) if scored.benchmark is not None else (),
        remarks=_remarks(scored, engines),
    )


def _remarks(scored: ScoredTask, engines: Mapping[str, Engine]) -> tuple[str, ...]:
    """How a benchmark was asked, and what was not asked anew."""
    if scored.benchmark is None:
        return ()
    found = [scored.benchmark.protocol]
    for name, engine in engines.items():
        if isinstance(engine, Remembering) and engine.found:
            found.append(f"{name}: {engine.found:,} of {engine.found + engine.asked:,} answers were kept from before")
    return tuple(found)


def _clusters(rows: Sequence[Example]) -> list[int]:
    """The number of each row's cluster: rows that ask the same are one, and those that say that they are (a passage, a
    subject), if there are enough clusters to tell how much they vary."""
    said = [row.meta.get("cluster") for row in rows]
    by_word = len(set(said)) >= FEWEST_CLUSTERS
    asked: dict[str, int] = {}
    texts = (
        f"cluster {own}"
        if own is not None and by_word
        else repr((row.prompt, row.meta.get("contexts"), row.tools))
        if row.prompt
        else str(index)
        for index, (row, own) in enumerate(zip(rows, said, strict=True))
    )
    return [asked.setdefault(text, index) for index, text in enumerate(texts)]


def check(scored: ScoredTask, examples: Sequence[Example], template: Template, context: int | None) -> list[str]:
    """Raise LuthierError, before there is a model, for what `compare` would refuse then: rows that no scorer can judge
    or that a model of this `context` could not read, and a picking scorer that cannot judge what is drawn. In words,
    which scorers will have nothing to say of some rows."""
    rows = scored.rows(examples, template, context)
    _check(scored, rows)
    Questions(scored, rows, template, 0, None).check_lengths(scored.metrics, context)
    return [
        f"{len(lacking):,} of {len(rows):,} rows will not be judged by {label}: they have {lacking[0][1]} "
        f"({', '.join(str(row.source) for row, _ in lacking[:SHOWN])}{', …' if len(lacking) > SHOWN else ''})"
        for label, metric in scored.metrics.items()
        if (lacking := _lacking(metric, rows))
    ]


def _lacking(metric: Metric, rows: Sequence[Example]) -> list[tuple[Example, str]]:
    """The rows without what the scorer judges by, and what that is."""
    found = [(row, metric.lacks(row)) for row in rows]
    return [(row, what) for row, what in found if what is not None]


def _check(scored: ScoredTask, rows: Sequence[Example]) -> None:
    """Refuse what could only end without a score, whatever the model."""
    task, metrics, by = scored.task, scored.metrics, scored.by
    if not rows:
        raise LuthierError(f"the task {task.name!r} has no rows to score", fix="look at its `data:` and `limit:`")
    if by is not None and not judges_words(by[1]):
        raise LuthierError(
            f"the task {task.name!r} picks by {by[0]!r}, which does not judge an answer that a model drew",
            where="evaluate",
            fix="set `by:` to a reward model ({reward_model: runs/rm}) or a scorer of answers (f1, exact_match, …)",
        )
    if by is not None and not any(judges_words(metric) for metric in metrics.values()):
        raise LuthierError(
            f"the task {task.name!r} draws {task.best_of} answers to each prompt, and no scorer judges answers",
            where="evaluate",
            fix="name a scorer of answers, or leave `best_of` out",
        )
    for metric in (*metrics.values(), *([by[1]] if by else [])):
        metric.check()
    for label, metric in metrics.items():
        if isinstance(metric, Judgement) and not any(metric.judges(row) for row in rows):
            raise _no_judgement(task, label, len(rows), metric.lacking)
        if metric.needs_choices and (first := next((row for row in rows if metric.lacks(row)), None)) is not None:
            raise _no_judgement(task, label, len(rows), f"a row has {metric.lacks(first)}", first)
        if metric.needs_likelihood and not any(row.responses or row.answer is not None for row in rows):
            raise _no_judgement(task, label, len(rows), "they have no answer")
    judging = dict([*metrics.items(), *([by] if by else [])])
    judging = {label: metric for label, metric in judging.items() if judges_words(metric)}
    promptless = next((row for row in rows if not row.prompt), None)
    if judging and promptless is not None:
        raise LuthierError(
            f"the task {task.name!r} has a row without a prompt to answer",
            where=str(promptless.source) if promptless.source else None,
            fix="plain text can be scored by `perplexity` alone",
        )
    for label, metric in judging.items():
        lacking = _lacking(metric, rows)
        if len(lacking) == len(rows):
            raise _no_judgement(task, label, len(rows), f"they have {lacking[0][1]}", lacking[0][0])
        # a reference that cannot be judged against itself has nothing to say about answers either; one that is judged
        # beside others may well have
        if (
            metric.needs_reference
            and not metric.sees_group
            and all(metric(row, Response((Turn("assistant", reference(row) or ""),))) is None for row in rows)
        ):
            raise _no_judgement(task, label, len(rows), "they have no answer, or none of the kind it compares")


def _no_judgement(task: Task, label: str, rows: int, lacking: str, first: Example | None = None) -> LuthierError:
    return LuthierError(
        f"the scorer {label!r} can judge none of the {rows} rows of the task {task.name!r}: {lacking}",
        where=str(first.source) if first is not None and first.source else None,
        fix="give the rows what it judges by (an `answer`, a last assistant turn, `chosen` and `rejected`), or take "
        "another scorer",
    )


def _check_judges(task: Task, metrics: Mapping[str, Metric], systems: Sequence[System]) -> None:
    """Refuse systems that give no rewards where rewards are judged."""
    label = next((label for label, metric in metrics.items() if isinstance(metric, Judgement)), None)
    for system in systems:
        if label is not None and system.judge is None:
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
        told = f"rewards {', '.join(map(number, rewards))}" if rewards else None
        if outcome.choices is not None and completion is None:
            told = _picked(row, outcome.choices[index], found)
        answers[name] = Answer(
            text=completion.text if completion else told,
            finish=completion.finish if completion else None,
            scores={verdict.label: verdict.of_row(name, index) for verdict in found},
        )
    judged = len(row.responses) > 1 and any(isinstance(verdict.metric, Judgement) for verdict in found)
    return Sample(row, _ranked(row) if judged else reference(row), answers)


def _picked(row: Example, logps: Sequence[float], found: Sequence[Verdict]) -> str:
    """The choice that the headline picks, or the first metric of choices."""
    metric = next(one.metric for one in found if isinstance(one.metric, ChoiceMetric))
    pick = metric.pick(row, logps)
    own = row.meta.get("contexts")
    return text(row.responses[pick]).strip() if own is None else str(own[pick]).rpartition("\n")[2]


def _ranked(row: Example) -> str:
    """The responses that were judged, in the order of their rewards, each behind the score it has in the data."""
    scored = (
        (response, "no score" if response.reward is None else f"{response.reward:g}") for response in row.responses
    )
    return "\n\n".join(f"({score}) {text(response)}" for response, score in scored)
