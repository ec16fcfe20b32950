"""Verbs that train: a recipe, the stages of a pipeline, the demo."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.distributed.group import of_environment, threads_of_training
from luthier.recipe import Recipe, models_located, resolve
from luthier.run import Run
from luthier.verbs import exporting, scoring
from luthier.verbs.opening import loaded
from luthier.workflow.job import Job
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import closing, console, hush, say

if TYPE_CHECKING:
    from luthier.distributed.group import Group


def train(recipe: Recipe | str | Path, overrides: Sequence[str] = (), *, processes: int = 1) -> Run:
    """Train what the recipe says, score it before and after, write the report; return the run.

    The same recipe on the same folder continues where it was stopped, and does nothing when all is done. `processes`:
    in so many new ones of this machine, as the command line's `--processes`. Raises LuthierError for whatever the user
    can mend, as early as it can be known.
    """
    if processes != 1:
        from luthier.workflow import together

        output = alone(recipe, overrides, processes).output
        return together.train(recipe, overrides, processes, Run(Path(output).expanduser()))
    from luthier.workflow import resume_check, training
    from luthier.workflow.faults import recorded
    from luthier.workflow.scoring import check

    group = of_environment()
    with ExitStack() as stack:
        stack.callback(group.leave)
        stack.enter_context(group.faults())
        if not group.first:
            return helping(recipe, overrides, group)
        job = Job(models_located(resolve(loaded(recipe, overrides), REGISTRIES).recipe))
        job.must_be_alone(group.world)
        run = Run(Path(job.recipe.output).expanduser())
        stack.enter_context(run.locked())
        stack.enter_context(recorded(run))
        held = resume_check.held(run, job.recipe)
        run.check_whole()
        check(job, held.unscored)
        resume_check.keep(run, job.recipe)
        group.tell("trains", not held.trained)
        if not held.trained:
            with threads_of_training(group):
                training.fit(job, run, group)
        for plugin in held.unexported:
            exporting.written(run, job.recipe, plugin, run.folder / plugin.name)
        scoring.scored(run, job, held.unscored)
        if held.finished:
            say(f"this run is finished; remove {run.folder} to train it anew")
        else:
            scoring.report(run)
        closing(run)
    return run


def alone(recipe: Recipe | str | Path, overrides: Sequence[str], processes: int) -> Recipe:
    """The recipe resolved, before so many processes are started for it: what is wrong with it, or cannot be done by
    several, is told once."""
    resolved = resolve(loaded(recipe, overrides), REGISTRIES).recipe
    Job(resolved).must_be_alone(processes)
    return resolved


def helping(recipe: Recipe | str | Path, overrides: Sequence[str], group: Group) -> Run:
    """What each further process of the run does: it trains beside the first one, and neither shows nor writes."""
    from luthier.workflow import training

    hush()
    trains = group.told("trains")  # first: what is wrong with the recipe, the first process tells
    job = Job(models_located(resolve(loaded(recipe, overrides), REGISTRIES).recipe))
    run = Run(Path(job.recipe.output).expanduser())
    if trains:
        with threads_of_training(group):
            training.fit(job, run, group)
    return run


def run(pipeline: str | Path, overrides: Sequence[str] = (), *, again: bool = False) -> Path:
    """Do the stages of a pipeline, one after another, and return its folder; given again, it goes on where it was.

    `overrides`: keys of stages by dotted names (stages.sft.train.lr=1e-4). `again`: stages that have changed since they
    were begun, and all after them, are done anew; without it that is a LuthierError, before anything is begun.
    """
    from luthier.workflow.pipeline import reading, running

    folder = running.run(reading.read(pipeline, overrides), train, say, again=again)
    console().print(f"report      {folder / 'report.html'}", markup=False)
    return folder


def demo(output: Path, overrides: Sequence[str] = ()) -> Run:
    """The shipped demo: its recipe and data are copied beside the run folder, and trained on."""
    from luthier.demo import prepare

    recipe = prepare(output.with_name(f"{output.name}-recipe"), output)
    say(f"the demo's recipe and data: {recipe.parent}")
    return train(recipe, overrides)
