"""What every verb begins with: a recipe or a run as it was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.recipe import Loaded, Recipe, load, override, resolve
from luthier.run import Run
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import say


def loaded(recipe: Recipe | str | Path, overrides: Sequence[str]) -> Loaded:
    if isinstance(recipe, Recipe):
        loaded = override(recipe, overrides, REGISTRIES)
    else:
        loaded = load(recipe, overrides, REGISTRIES)
    for line in loaded.renamed:
        say(line)
    return loaded


def opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def recipe_of(run: Run, overrides: Sequence[str] = ()) -> Recipe:
    return resolve(load(run.recipe_path, overrides, REGISTRIES), REGISTRIES).recipe
