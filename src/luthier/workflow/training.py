"""The training itself: data, model, loop, and what was trained into the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.run import Run
from luthier.workflow import forecast
from luthier.workflow.job import Job
from luthier.workflow.screen import say

if TYPE_CHECKING:
    from luthier.distributed.group import Group
    from luthier.types import StepSource


@dataclass(frozen=True)
class Given:
    """What the loop trains on where the model writes it."""

    train: StepSource
    validation: None = None


def fit(job: Job, run: Run, group: Group) -> None:
    """The training itself: data, model, loop, and what was trained into the run folder."""
    from luthier import models
    from luthier.distributed.group import use_threads
    from luthier.evaluate import record_environment
    from luthier.models import heads
    from luthier.train import fit as trained

    recipe = job.recipe
    with group.first_goes():  # the others find models and rows in the cache
        rows = job.rows
        if group.first:
            run.write_json(run.ledger_path, rows.ledger.to_json())
        job.check_data()
        for overlap in rows.overlaps:
            overlap.check()
        told = forecast.before(job, say) if group.first else None
        if group.several:
            job.fetch()
    group.form()
    if group.several or recipe.train.parts:  # what is measured before the first step hangs on them, too
        use_threads(group, recipe.train.threads)
    sample = job.sample(models.sample_rows(recipe.adapt))
    if sample:
        say(f"{len(sample):,} rows go through the model first: what `adapt:` adds is measured on them")
    beginning = models.Beginning(recipe.seed, job.heads(), sample)
    policy = models.load(recipe.model, recipe.adapt, quantize=recipe.quantize, beginning=beginning)
    what_becomes = heads.describe(policy.folder, policy.head)
    if what_becomes is not None:
        say(what_becomes)
    policy.ends = job.template.stop_ids
    beside = job.beside(policy, run if group.first else None, group)
    given = job.prepared if not job.speaks else Given(job.rollouts(policy, run))
    trained(policy, job.objective, given, recipe, run, beside)
    group.leave()
    if group.first:
        run.still_held()
        models.save(policy, run)
        record_environment(run)
        forecast.after(told, run, say)
