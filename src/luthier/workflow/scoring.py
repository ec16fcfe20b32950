"""A run's model and its base on the tasks of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luthier.engines.opening import Opening
from luthier.engines.switched import AdapterOff
from luthier.errors import LuthierError
from luthier.recipe import Recipe, Source, Task
from luthier.run import Run
from luthier.scorers.choices import Likeliest
from luthier.scorers.metric import Metric
from luthier.types import Encoded, Engine, Example
from luthier.workflow.job import Job
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import say

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.evaluate import Comparison, ScoredTask
    from luthier.evaluate.asking import Judge
    from luthier.models import Policy
    from luthier.models.heads import ScalarHead


Engines = Mapping[str, Engine]


@dataclass(frozen=True)
class Model:
    """The run's model or its base. `off` gives the block inside which a policy is it: the same weights in memory, the
    adapter switched off."""

    policy: Policy
    off: Callable[[], AbstractContextManager[None]] = nullcontext


def opened(run: Run, recipe: Recipe, *, base: bool) -> Mapping[str, Model]:
    """The run's model as `tuned`, after `base` where it is wanted: the adapter off, or the base loaded."""
    from luthier import models

    policy = models.open_run(run)
    if not base:
        return {"tuned": Model(policy)}
    if policy.has_adapter and not policy.rewrites_base:
        return {"base": Model(policy, policy.adapter_off), "tuned": Model(policy)}
    return {"base": Model(models.open_base(run, recipe.model)), "tuned": Model(policy)}


def _engine(opening: Opening, model: Model) -> Engine:
    from luthier.data import Template

    engine = opening.open(model.policy, Template(model.policy.tokenizer).stop_ids)
    return engine if model.off is nullcontext else AdapterOff(engine, model.off)


def _elsewhere(opening: Opening, run: Run, recipe: Recipe, base: bool) -> Mapping[str, Engine]:
    """The engines of the run's model, and before it of its base where it is wanted, with weights of their own."""
    from luthier.data import Template
    from luthier.models.loading import on_disk

    disks = {"base": on_disk.of_base(run, recipe.model)} if base else {}
    disks["tuned"] = on_disk.of_run(run)
    return {name: opening.open(disk, Template(disk.tokenizer).stop_ids) for name, disk in disks.items()}


def _opening(recipe: Recipe, tasks: Sequence[Task]) -> Opening:
    """What opens the engines. Raises LuthierError where it cannot, or cannot do what the tasks ask of it."""
    opening: Opening = REGISTRIES["engine"].build(recipe.engine.name, recipe.engine.args)
    if not tasks:
        return opening
    opening.ready(base=any(task.base for task in tasks))
    for task in tasks:
        scorers = [(plugin.name, REGISTRIES["scorer"].get(plugin.name)) for plugin in task.scorers]
        if task.benchmark is not None:
            benchmark = REGISTRIES["benchmark"].build(task.benchmark.name, task.benchmark.args)
            scorers = [(name, type(metric)) for name, metric in benchmark.metrics().items()]
            scorers += [(task.benchmark.name, Likeliest)] if benchmark.likelihoods else []
        for name, scorer in scorers:
            asks = issubclass(scorer, Metric) and (scorer.needs_likelihood or scorer.needs_choices)
            if not opening.scores and asks:
                raise LuthierError(
                    f"the scorer {name!r} of the task {task.name!r} reads how likely a given text is, and "
                    f"`engine: {recipe.engine.name}` does not tell it",
                    where="engine",
                    fix="set engine=local, or take scorers that judge answers",
                )
    return opening


def score(
    run: Run, job: Job, tasks: Sequence[Task], say: Callable[[str], None], *, again: bool = False
) -> list[Comparison]:
    """Score the run on the tasks, record samples and scores in its folder, and return the comparisons.

    `say` is told of rows that cannot be read; `again`: benchmarks ask what they have asked before, too.
    """
    from luthier import models
    from luthier.data import Template
    from luthier.evaluate import compare, record
    from luthier.evaluate.benchmarks.benchmark import Asked

    if not tasks:
        return []
    recipe = job.recipe
    rows = [rows_of(task, job, say) for task in tasks]  # what cannot be read is known before a model is loaded
    opening, rewards = _opening(recipe, tasks), any(job.scored(task).needs_rewards for task in tasks)
    base = any(task.base for task in tasks)
    systems = opened(run, recipe, base=base or rewards) if rewards or not opening.elsewhere else {}
    if opening.elsewhere:
        engines = _elsewhere(opening, run, recipe, base)
    else:
        engines = {name: _engine(opening, model) for name, model in systems.items()}
    judges = _judges(systems, job, run) if rewards else {}
    if systems:  # what the run was made from may have gone: its own files are enough
        policy = systems["tuned"].policy
        template = Template(policy.tokenizer, models.embeddings(policy.module))
    else:
        template = job.template
    found = []
    for task, examples in zip(tasks, rows, strict=True):
        chosen: Engines = {name: engine for name, engine in engines.items() if task.base or name != "base"}
        scored = job.scored(task)
        if scored.benchmark is not None and not opening.elsewhere:
            chosen = _remembering(chosen, run, recipe, template, again)

        def usual(
            scored: ScoredTask = scored, examples: list[Example] = examples, chosen: Engines = chosen
        ) -> Comparison:
            return compare(scored, examples, template, chosen, judges=judges, seed=recipe.seed)

        if scored.benchmark is None:
            comparison = usual()
        else:
            asked = Asked(task, examples, template, chosen, recipe.seed, usual)
            comparison = scored.benchmark.compare(asked)
        comparison = replace(comparison, remarks=(*comparison.remarks, *_trained_on(run, task)))
        record(run, comparison)
        found.append(comparison)
    return found


def _remembering(engines: Engines, run: Run, recipe: Recipe, template: Template, again: bool) -> Engines:
    """The engines of this process with what they have answered before: known by the weights, and by all else that
    answers hang on. `again`: that is forgotten."""
    from luthier.engines.kept import Kept, Remembering
    from luthier.models.loading import on_disk

    made = {}
    for name, engine in engines.items():
        disk = on_disk.of_base(run, recipe.model) if name == "base" else on_disk.of_run(run)
        beside = [path for path in (disk.folder, disk.adapter) if path is not None]
        settings = [
            sha256(one.read_bytes()).hexdigest() for path in beside for one in sorted(path.glob("*config.json"))
        ]
        opening = REGISTRIES["engine"].build(recipe.engine.name, recipe.engine.args)
        quantize = None if recipe.quantize is None else [recipe.quantize.name, recipe.quantize.args]
        how = [recipe.engine.name, opening.identity(), recipe.model.dtype, quantize, template.digest]
        kept = Kept([disk.digest, settings, how])
        if again:
            kept.forget()
        made[name] = Remembering(engine, kept)
    return made


def _trained_on(run: Run, task: Task) -> list[str]:
    """What the run's ledger says of the task's rows among those that trained."""
    ledger = run.read_json(run.ledger_path)
    lines = [*ledger.get("remarks", ()), *ledger.get("notes", {})]
    return [line for line in lines if isinstance(line, str) and line.startswith(f"{task.name}: ")]


def check(job: Job, tasks: Sequence[Task]) -> None:
    """Raise LuthierError, before anything is trained, where the tasks could not be scored on this run: their rows are
    not there or too long for the model, a scorer could judge none of them or not this run."""
    from luthier import models
    from luthier.evaluate import check as check_task
    from luthier.evaluate.rewards import gives_rewards, no_rewards

    recipe = job.recipe
    _opening(recipe, tasks)
    for task in tasks:
        benchmark = job.scored(task).benchmark
        if benchmark is not None:
            benchmark.ready()
            if not benchmark.usual:
                continue
        rows = rows_of(task, job, lambda _: None)  # what cannot be read is told when they are scored
        longest = models.expected_max_context(recipe.model, recipe.adapt)[0]
        for remark in check_task(job.scored(task), rows, job.template, longest):
            say(f"{task.name}: {remark}")
        if job.scored(task).needs_rewards and not gives_rewards(job.objective):
            raise no_rewards(recipe.objective.name)


def _judges(systems: Mapping[str, Model], job: Job, run: Run) -> Mapping[str, Judge]:
    """The rewards of the run's model and of its base: what a scalar head reads, or what the objective takes from
    likelihoods. Raises LuthierError where the reference model is not the one that the run was trained with."""
    from luthier import models
    from luthier.evaluate.rewards import CachedLikelihoods, ImplicitRewards
    from luthier.forward.likelihoods import Likelihoods
    from luthier.forward.values import Reader
    from luthier.models.loading.digest import must_be

    recipe, name, objective = job.recipe, job.recipe.objective.name, job.objective
    policy = systems["tuned"].policy
    if policy.head is not None:
        first = _first_rewards(systems["base"], policy.head)
        return {"base": first, "tuned": Reader(policy.module, policy.head)}
    base = CachedLikelihoods(Likelihoods(systems["base"].policy.module, systems["base"].off))
    second, reference = recipe.reference.model, base
    if second is not None:
        other = models.load(second, train=False)
        must_be(run.read_json(run.summary_path).get("reference"), other.digest, second.name, run.folder)
        reference = CachedLikelihoods(Likelihoods(other.module))
    return {
        "base": ImplicitRewards(name, objective, base, reference),
        "tuned": ImplicitRewards(name, objective, Likelihoods(policy.module), reference),
    }


def _first_rewards(base: Model, head: ScalarHead) -> Judge:
    """The rewards before training: those of the head that the base brought along, else zeros."""
    from luthier.evaluate.rewards import Untrained
    from luthier.forward.values import Reader
    from luthier.models import heads

    policy = base.policy
    first = heads.begin(policy.folder, policy.module, policy.device, head.card)
    if not first.weight.any():
        return Untrained(head.card.kind)
    reader = Reader(policy.module, first)

    def judge(rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        with base.off():
            return reader(rows)

    return judge


def rows_of(task: Task, job: Job, say: Callable[[str], None]) -> list[Example]:
    """The task's rows. Those that cannot be read are not scored, and it is said which and why.

    Raises LuthierError, with the reasons, where none is left.
    """
    benchmark = job.scored(task).benchmark
    if benchmark is not None and not benchmark.usual:
        return []
    if benchmark is not None:
        return benchmark.rows(lambda told: say(f"{task.name}: {told}"))
    from luthier.data import read
    from luthier.data.ledger import SHOWN, Ledger

    ledger = Ledger()
    examples = list(read(task.data, ledger))
    reasons = []
    for reason, lost in ledger.main_reasons():
        named = ", ".join(lost.rows[:SHOWN]) + (" …" if lost.count > SHOWN else "")
        reasons.append((f"{lost.count:,} of {ledger.rows_read:,} rows are not scored: {reason} ({named})", lost.fix))
    if not examples:
        raise LuthierError(
            f"the task {task.name!r} has no rows to score: "
            + ("; ".join(told for told, _ in reasons) or "its data holds none"),
            where=", ".join(_place(source) for source in task.data),
            fix=next((fix for _, fix in reasons if fix), "mend the rows, or look at the task's `data:`"),
        )
    for told, _ in reasons:
        say(f"{task.name}: {told}")
    return examples


def _place(source: Source) -> str:
    """Where the rows of a source are."""
    return source.path or source.llamafactory or source.hub or "evaluate"
