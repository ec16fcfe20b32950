"""The system on one page: each verb is a short function over a recipe or a run.

A run folder is all that passes between them, so each verb starts alone from what is on disk. Heavy imports stay inside.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from luthier.distributed.group import of_environment, threads_of_training
from luthier.errors import LuthierError
from luthier.recipe import (
    Loaded,
    Plugin,
    Recipe,
    Task,
    json_schema,
    load,
    lock,
    models_located,
    override,
    resolve,
)
from luthier.recipe import explain as explained
from luthier.recipe.describe import plugin_entries
from luthier.registry import suggest
from luthier.run import Run, write_atomically
from luthier.workflow.job import Job
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import closing, console, hush, say

if TYPE_CHECKING:
    from luthier.data import Prepared, Prompts
    from luthier.distributed.group import Group
    from luthier.evaluate import Comparison

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # nothing phones home
# bitsandbytes warns of an optional kernel each time it is imported, and PEFT imports it wherever it is installed
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# torch compiles a CPU matrix product for each size it meets and keeps 1,024 of them, near a megabyte each
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")


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
    from luthier.workflow import resume_check, scoring, training

    group = of_environment()
    with ExitStack() as stack:
        stack.callback(group.leave)
        stack.enter_context(group.faults())
        if not group.first:
            return _help(recipe, overrides, group)
        job = Job(models_located(resolve(_loaded(recipe, overrides), REGISTRIES).recipe))
        job.must_be_alone(group.world)
        run = Run(Path(job.recipe.output).expanduser())
        stack.enter_context(run.locked())
        held = resume_check.held(run, job.recipe)
        run.check_whole()
        scoring.check(job, held.unscored)
        resume_check.keep(run, job.recipe)
        group.tell("trains", not held.trained)
        if not held.trained:
            with threads_of_training(group):
                training.fit(job, run, group)
        for plugin in held.unexported:
            _export(run, job.recipe, plugin, run.folder / plugin.name)
        _evaluate(run, job, held.unscored)
        if held.finished:
            say(f"this run is finished; remove {run.folder} to train it anew")
        else:
            _report(run)
        closing(run)
    return run


def alone(recipe: Recipe | str | Path, overrides: Sequence[str], processes: int) -> Recipe:
    """The recipe resolved, before so many processes are started for it: what is wrong with it, or cannot be done by
    several, is told once."""
    resolved = resolve(_loaded(recipe, overrides), REGISTRIES).recipe
    Job(resolved).must_be_alone(processes)
    return resolved


def _help(recipe: Recipe | str | Path, overrides: Sequence[str], group: Group) -> Run:
    """What each further process of the run does: it trains beside the first one, and neither shows nor writes."""
    from luthier.workflow import training

    hush()
    trains = group.told("trains")  # first: what is wrong with the recipe, the first process tells
    job = Job(models_located(resolve(_loaded(recipe, overrides), REGISTRIES).recipe))
    run = Run(Path(job.recipe.output).expanduser())
    if trains:
        with threads_of_training(group):
            training.fit(job, run, group)
    return run


def evaluate(run: Run | str | Path, overrides: Sequence[str] = ()) -> list[Comparison]:
    """Score a run's model on the tasks of its recipe, base and tuned side by side, and write the report anew."""
    from luthier.workflow import resume_check

    run = _opened(run)
    recipe = _recipe_of(run, overrides)
    if not recipe.evaluate:
        raise LuthierError(
            "the recipe of this run has no tasks", where=str(run.recipe_path), fix="add evaluate.0.data=held-out.jsonl"
        )
    with run.locked():
        resume_check.held(run, recipe)
        run.check_whole()
        comparisons = _evaluate(run, Job(recipe), recipe.evaluate)
        for key in resume_check.keep(run, recipe):  # what the scores are of, now that there are scores
            say(f"{key}: the run keeps what was given here, and `luthier evaluate` goes by it from now on")
        _report(run)
    console().print(f"report      {run.report_path}", markup=False)
    return comparisons


def export(run: Run | str | Path, to: str = "merged", *, folder: Path | None = None, keys: Sequence[str] = ()) -> Path:
    """Write a run's model for others to load. Raises LuthierError, and leaves nothing, if it reads text otherwise.

    `folder` may be new, empty or an earlier export, which is replaced; anything else in it is refused.
    """
    from luthier.workflow import export_check

    run = _opened(run)
    plugin = export_check.asked(to, keys)
    folder = export_check.place(folder) if folder is not None else run.folder / to
    with run.locked():
        run.read_json(run.summary_path)  # where the drift will stand: what is wrong with it is told before the work
        return _export(run, _recipe_of(run), plugin, folder)


def combine(runs: Sequence[str], folder: Path | None, *, how: str = "linear", density: float = 0.5) -> Run:
    """Make one adapter out of those of several runs (`folder:weight` each) and write it as a run of its own, which can
    be talked to, scored and exported. Raises LuthierError where they do not go together."""
    from luthier import models
    from luthier.models import combining

    given = combining.parts(runs)
    there = None if folder is None else folder.expanduser()
    if there is None or there.is_file() or (there.is_dir() and any(there.iterdir())):
        taken = "is a file" if there is not None and there.is_file() else "is not empty"
        what = "where should the combined run go?" if folder is None else f"{folder} {taken}"
        raise LuthierError(what, where="--folder", fix="name a new folder, for instance --folder runs/combined")
    run = Run(there)
    recipe = dataclasses.replace(_recipe_of(Run.open(given[0].folder)), output=str(run.folder))
    policy = combining.combine(given, how, density, recipe.seed)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(run.recipe_path, lock(recipe))
    models.save(policy, run)
    made = {"how": how, "density": density, "of": {str(part.folder.resolve()): part.weight for part in given}}
    run.write_json(run.summary_path, {"combined": made})
    named = " + ".join(f"{part.weight:g} × {part.folder}" for part in given)
    say(f"{named} ({how}) is a run of its own now: {run.folder}")
    return run


def data(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    show: int = 0,
    diff: int = 0,
    report: bool = False,
) -> Prepared | Prompts:
    """Show the ledger of a recipe's data without training, the first rows with the tokens that train coloured, and the
    first changes of each step (`diff`). `report`: write data.html."""
    resolved = resolve(_loaded(recipe, overrides), REGISTRIES).recipe
    job = Job(resolved).lenient()  # what is lost is to be seen, too
    if show:
        console().print(job.shown(show))
    if diff:
        from luthier.data.curation import shown

        for one in shown.samples(job.rows.ledger.steps, diff):
            console().print(one)
    if report:
        from luthier.workflow import curation

        curation.report(resolved)
    job.rows.refuse_lost(resolved.train.max_lost)
    job.check_data()
    return job.rows


def chat(
    model: Run | str | Path,
    *,
    system: str | None = None,
    temperature: float = 0.0,
    max_new_tokens: int = 512,
    both: bool = False,
    engine: str = "local",
) -> None:
    """Talk to a run (with the system message its data had) or to any model, in the terminal or through a pipe.

    `engine`: what answers, as a recipe names it, for instance "{openai: {url: …, model: …}}".
    """
    from luthier import serve
    from luthier.types import Sampling
    from luthier.workflow import speaker

    given = speaker.Speaker(model)
    opening = speaker.opening(speaker.named(engine))
    template = given.template(opening)
    if template.remark:
        say(template.remark)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    far = cast("serve.Streaming", given.engine(opening, template)) if opening.elsewhere else None
    answers = given.policy if far is None else serve.Elsewhere(far, given.name)
    system = (system if system is not None else given.system) or None
    serve.chat(answers, template, console(), system=system, sampling=sampling, both=both)


def generate(
    model: Run | str | Path,
    prompts: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Answer the prompts of a file, a line an answer in `out`; the same command goes on where it was stopped.

    `overrides`: the keys of `recipe.Generation` by dotted names (n=4, temperature=0.8, engine.openai.url=…). Raises
    LuthierError where `out` holds answers made with other settings or weights, unless it is to `overwrite` them.
    """
    from luthier.recipe.generation import generation
    from luthier.workflow import generation as work
    from luthier.workflow.speaker import Speaker

    keys = generation([f"data.path={json.dumps(str(prompts))}", *overrides])  # JSON's text is YAML's, whatever is in it
    return work.generate(Speaker(model), keys, Path(out).expanduser(), overwrite=overwrite, say=say)


def run(pipeline: str | Path, overrides: Sequence[str] = (), *, again: bool = False) -> Path:
    """Do the stages of a pipeline, one after another, and return its folder; given again, it goes on where it was.

    `overrides`: keys of stages by dotted names (stages.sft.train.lr=1e-4). `again`: stages that have changed since they
    were begun, and all after them, are done anew; without it that is a LuthierError, before anything is begun.
    """
    from luthier.workflow.pipeline import reading, running

    folder = running.run(reading.read(pipeline, overrides), train, say, again=again)
    console().print(f"report      {folder / 'report.html'}", markup=False)
    return folder


def serve(
    given: Sequence[str],
    *,
    adapters: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Sequence[str] = (),
) -> None:
    """Serve runs and models by OpenAI's API, and a chat page, until it is told to stop. `given`: runs and models, and
    settings (`serve.queue=64k`); `keys`: lines as in a file of keys."""
    from luthier.serve import listening

    listening.serve(given, adapters, (host, port), list(keys), say)


def samples(run: Run | str | Path, *, step: int | None = None, count: int = 5, worst: bool = False) -> None:
    """Show what the model said while it learnt from that: the best paid answers of a step, or the worst."""
    from luthier.evaluate import said

    console().print(said.table(_opened(run), step, count, worst=worst))


def models() -> None:
    """List the known models: what is cached, sizes and licences."""
    from rich.table import Table

    from luthier.models import catalogue

    table = Table("name", "cached", "from", "licence", "about", box=None, header_style="bold", pad_edge=False)
    for known in catalogue():
        size = f"{known.size / 2**20:,.0f} MiB" if known.cached else "–"
        table.add_row(known.alias, size, known.origin, known.licence, known.about)
    console().print(table)


def explain(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> None:
    """Print every resolved value of a recipe with where it came from.

    `adapt` instead of a recipe: the table of adapters; the name of one: its card.
    """
    from luthier.models.adapters.kit import guide
    from luthier.workflow.teaching import forecast

    name = str(recipe)
    if name == "adapt":
        console().print(guide.table())
    elif name in REGISTRIES["adapter"].names():
        found = plugin_entries(REGISTRIES["adapter"].get(name))
        console().print(guide.shown(name, [(entry.key, entry.default, entry.doc) for entry in found]))
    else:
        kinds = [kind for kind, registry in REGISTRIES.items() if name in registry.names()]
        if kinds and not Path(name).exists():
            raise LuthierError(
                f"{name!r} is no recipe, but a plug-in ({kinds[0]}), and only adapters have cards",
                fix=f"docs/recipes.md lists the keys of {name}; `luthier explain RECIPE` prints their values",
            )
        if name.isidentifier() and not Path(name).exists():
            raise LuthierError(
                f"{name!r} is neither a recipe nor a way to adapt a model",
                fix=f"{suggest(name, REGISTRIES['adapter'].names())}; of a recipe, give the path",
            )
        loaded = _loaded(recipe, overrides)
        console().print(explained(loaded, REGISTRIES))
        for line in forecast.lines(Job(resolve(loaded, REGISTRIES).recipe)):
            console().print(line, markup=False)


def schema() -> dict[str, Any]:
    """Print the JSON schema of recipes, for editors; and return it."""
    content = json_schema(REGISTRIES)
    print(json.dumps(content, indent=2, ensure_ascii=False))
    return content


def demo(output: Path, overrides: Sequence[str] = ()) -> Run:
    """The shipped demo: its recipe and data are copied beside the run folder, and trained on."""
    from luthier.demo import prepare

    recipe = prepare(output.with_name(f"{output.name}-recipe"), output)
    say(f"the demo's recipe and data: {recipe.parent}")
    return train(recipe, overrides)


# the steps that verbs share
def _loaded(recipe: Recipe | str | Path, overrides: Sequence[str]) -> Loaded:
    if isinstance(recipe, Recipe):
        loaded = override(recipe, overrides, REGISTRIES)
    else:
        loaded = load(recipe, overrides, REGISTRIES)
    for line in loaded.renamed:
        say(line)
    return loaded


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _recipe_of(run: Run, overrides: Sequence[str] = ()) -> Recipe:
    return resolve(load(run.recipe_path, overrides, REGISTRIES), REGISTRIES).recipe


def _export(run: Run, recipe: Recipe, plugin: Plugin, folder: Path) -> Path:
    from luthier import models
    from luthier.data import Template
    from luthier.workflow import export_check

    exporter = REGISTRIES["exporter"].build(plugin.name, plugin.args)
    policy = models.open_run(run)
    template = Template(policy.tokenizer)
    policy.ends = template.stop_ids
    if template.completed is not None:  # whoever loads the export is to ask as the rows did
        say(f"{template.remark}; the exported template has it")
        policy.tokenizer.chat_template = template.completed
    run.still_held()
    found = None

    def write(target: Path) -> None:
        nonlocal found
        exporter(policy, target)
        found = exporter.proof(policy, target, export_check.encoded(policy.tokenizer, recipe))

    rows = export_check.checked(write, folder, policy.tokenizer, recipe)
    say(f"exported to {folder}; {rows} sample rows give the same tokens as in training")
    if found is not None:
        say(str(found))
        summary = run.read_json(run.summary_path)
        drifts = {**summary.get("drift", {}), folder.name: dataclasses.asdict(found)}
        run.write_json(run.summary_path, {**summary, "drift": drifts})
    return folder


def _evaluate(run: Run, job: Job, tasks: Sequence[Task]) -> list[Comparison]:
    from luthier.workflow.scoring import score

    comparisons = score(run, job, tasks, say)
    for comparison in comparisons:
        console().print(comparison.table())
        console().print(comparison.sample_table())
    return comparisons


def _report(run: Run) -> None:
    from luthier.evaluate import write_report

    write_report(run)
