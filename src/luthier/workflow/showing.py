"""The exact prompts of a task's rows: what a model is given to read, to the token, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from luthier.evaluate import ScoredTask
from luthier.evaluate.asking import judges_words
from luthier.evaluate.benchmarks.benchmark import spread
from luthier.recipe import Task
from luthier.scorers.metric import reference
from luthier.workflow.job import Job
from luthier.workflow.scoring import rows_of

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.types import Example

RULE = "─"


def prompts(job: Job, tasks: Sequence[Task], count: int) -> Iterator[str]:
    """So many rows of each task, spread over its subjects. No weights are loaded."""
    from luthier import models

    context = models.expected_max_context(job.recipe.model, job.recipe.adapt)[0]
    for task in tasks:
        scored = job.scored(task)
        if scored.benchmark is not None and not scored.benchmark.usual:
            yield f"{RULE * 3} {task.name}: {scored.benchmark.protocol} (its prompts stand in samples.jsonl)"
            continue
        rows = scored.rows(rows_of(task, job, lambda _: None), job.template, context)
        chosen = spread(rows, lambda row: str(row.meta.get("subject", "")), count, job.recipe.seed)
        about = scored.benchmark.protocol if scored.benchmark is not None else f"{len(rows):,} rows"
        yield f"{RULE * 3} {task.name}: {about}"
        yield f"judged by {', '.join(scored.metrics)}{_decoding(scored)}"
        for row in chosen:
            yield from _shown(row, scored, job.template)


def _decoding(scored: ScoredTask) -> str:
    if not any(judges_words(metric) for metric in scored.metrics.values()):
        return ""
    sampling = scored.sampling
    stop = f", ends at {', '.join(map(repr, sampling.stop))}" if sampling.stop else ""
    return (
        f"; {scored.draws} answer{'s' if scored.draws > 1 else ''} of at most {sampling.max_new_tokens} tokens, "
        f"temperature {sampling.temperature:g}{stop}"
    )


def _shown(row: Example, scored: ScoredTask, template: Template) -> Iterator[str]:
    from luthier.data.encode.continuing import pairs_of
    from luthier.scorers.choices import gold

    place = f"{row.source} " if row.source else ""
    if "ids" in row.meta:
        ids, judged = list(row.meta["ids"]), row.meta["judged"]
        yield f"{RULE * 3} {place}{len(ids):,} tokens, the last {judged:,} judged"
        yield f"{template.tokenizer.decode(ids[:-judged])}⟦{template.tokenizer.decode(ids[-judged:])}⟧"
        return
    ids = template.prompt_ids(row.prompt, row.tools) if row.prompt else []
    yield f"{RULE * 3} {place}{len(ids):,} tokens"
    if row.meta.get("contexts") is None:
        yield str(template.tokenizer.decode(ids))
    if any(metric.needs_choices for metric in scored.metrics.values()):
        for place_, (before, said) in enumerate(pairs_of(row, template)):
            mark = "✓" if place_ in gold(row) else " "
            own = f"{before} " if row.meta.get("contexts") is not None else ""
            yield f"{mark} {own}⟦{said}⟧"
    elif (expected := reference(row)) is not None:
        yield f"⟦expected⟧ {expected}"
