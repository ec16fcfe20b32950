"""Verbs that tell how good a run is: its tasks, what it said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import LuthierError
from luthier.recipe import Task
from luthier.run import Run
from luthier.verbs.opening import opened, recipe_of
from luthier.workflow.job import Job
from luthier.workflow.screen import console, say

if TYPE_CHECKING:
    from luthier.evaluate import Comparison
    from luthier.evaluate.diagnosis import Finding


def evaluate(
    run: Run | str | Path, overrides: Sequence[str] = (), *, show: int = 0, again: bool = False
) -> list[Comparison]:
    """Score a run's model on the tasks of its recipe, base and tuned side by side, and write the report anew.

    `show`: nothing is scored, the exact prompts of so many rows of each task are printed. `again`: benchmarks ask
    what they have asked before, too.
    """
    from luthier.workflow import resume_check

    run = opened(run)
    recipe = recipe_of(run, overrides)
    if not recipe.evaluate:
        raise LuthierError(
            "the recipe of this run has no tasks", where=str(run.recipe_path), fix="add evaluate.0.data=held-out.jsonl"
        )
    if show:
        from luthier.workflow.showing import prompts

        for text in prompts(Job(recipe), recipe.evaluate, show):
            console().print(text, markup=False, highlight=False, soft_wrap=True)
        return []
    with run.locked():
        resume_check.held(run, recipe)
        run.check_whole()
        comparisons = scored(run, Job(recipe), recipe.evaluate, again=again)
        for key in resume_check.keep(run, recipe):  # what the scores are of, now that there are scores
            say(f"{key}: the run keeps what was given here, and `luthier evaluate` goes by it from now on")
        report(run)
    console().print(f"report      {run.report_path}", markup=False)
    return comparisons


def samples(run: Run | str | Path, *, step: int | None = None, count: int = 5, worst: bool = False) -> None:
    """Show what the model said while it learnt from that: the best paid answers of a step, or the worst."""
    from luthier.evaluate import said

    console().print(said.table(opened(run), step, count, worst=worst))


def diagnose(run: Run | str | Path) -> list[Finding]:
    """Tell what looks wrong with a run, likeliest first, each with its evidence and an override to try."""
    from luthier.workflow import diagnosing

    run = opened(run)
    found = diagnosing.findings(run, recipe_of(run))
    for line in diagnosing.lines(run, found):
        console().print(line)
    return found


def scored(run: Run, job: Job, tasks: Sequence[Task], *, again: bool = False) -> list[Comparison]:
    from luthier.evaluate.benchmarks import parts
    from luthier.workflow.scoring import score

    comparisons = score(run, job, tasks, say, again=again)
    for comparison in comparisons:
        console().print(comparison.table())
        by_part = parts.table(comparison.parts, comparison.task, comparison.headline.scorer)
        if by_part is not None:
            console().print(by_part)
        console().print(comparison.sample_table())
    return comparisons


def report(run: Run) -> None:
    from luthier.evaluate import write_report

    write_report(run)
