"""Verbs that write models for others to load, or make one of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from luthier.errors import LuthierError
from luthier.recipe import Plugin, Recipe, lock
from luthier.run import Run, write_atomically
from luthier.verbs.opening import opened, recipe_of
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import say


def export(run: Run | str | Path, to: str = "merged", *, folder: Path | None = None, keys: Sequence[str] = ()) -> Path:
    """Write a run's model for others to load. Raises LuthierError, and leaves nothing, if it reads text otherwise.

    `folder` may be new, empty or an earlier export, which is replaced; anything else in it is refused.
    """
    from luthier.workflow import export_check

    run = opened(run)
    plugin = export_check.asked(to, keys)
    folder = export_check.place(folder) if folder is not None else run.folder / to
    with run.locked():
        run.read_json(run.summary_path)  # where the drift will stand: what is wrong with it is told before the work
        return written(run, recipe_of(run), plugin, folder)


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
    recipe = dataclasses.replace(recipe_of(Run.open(given[0].folder)), output=str(run.folder))
    policy = combining.combine(given, how, density, recipe.seed)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(run.recipe_path, lock(recipe))
    models.save(policy, run)
    made = {"how": how, "density": density, "of": {str(part.folder.resolve()): part.weight for part in given}}
    run.write_json(run.summary_path, {"combined": made})
    named = " + ".join(f"{part.weight:g} × {part.folder}" for part in given)
    say(f"{named} ({how}) is a run of its own now: {run.folder}")
    return run


def written(run: Run, recipe: Recipe, plugin: Plugin, folder: Path) -> Path:
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
