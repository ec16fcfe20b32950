"""Whose folder is it? What a run folder holds against what a recipe asks for, decided before a second of compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import LuthierError
from luthier.recipe import Plugin, Recipe, Task, differences, loads, located, lock, resolve
from luthier.recipe.describe import show
from luthier.run import Run, write_atomically
from luthier.workflow.registries import REGISTRIES

SHOWN = 5
"""Differing keys named in the message."""


@dataclass(frozen=True)
class Claim:
    """What of a recipe's work its run folder holds already."""

    trained: bool
    unexported: tuple[Plugin, ...]
    """Exports that are not there."""
    unscored: tuple[Task, ...]
    """Tasks without scores of these weights."""
    reported: bool

    @property
    def finished(self) -> bool:
        """Is there nothing left to do?"""
        return self.trained and self.reported and not self.unexported and not self.unscored


def check(run: Run, recipe: Recipe) -> Claim:
    """Take the folder for the recipe and write its lock (`held`, `keep`)."""
    found = held(run, recipe)
    keep(run, recipe)
    return found


def keep(run: Run, recipe: Recipe) -> list[str]:
    """Write the recipe's lock into the folder that was looked at: what `luthier evaluate` goes by from now on. Returns
    what is another than it was, in words."""
    old, new = _read(run), located(recipe)
    write_atomically(run.recipe_path, lock(new))
    return [] if old is None else [name for name in ("engine", "evaluate") if getattr(old, name) != getattr(new, name)]


def held(run: Run, recipe: Recipe) -> Claim:
    """What the folder holds of the recipe's work. Call it with the folder locked; nothing is written.

    Raises LuthierError when the folder holds something else: another recipe's run, or files that are no run's.
    """
    recipe = located(recipe)
    old = _read(run)
    trained = run.adapter.is_dir() or run.model.is_dir()
    if old is None:
        _must_be_empty(run)
    elif trained or any(run.checkpoints.glob("step-*")):  # a run that failed before its first checkpoint binds nobody
        _must_agree(run, differences(old, recipe))
    scores = run.read_json(run.summary_path).get("scores", {})
    before = {task.name: task for task in old.evaluate} if old is not None else {}
    again = not trained or (old is not None and old.engine != recipe.engine)  # another engine may answer otherwise
    unscored = tuple(
        task for task in recipe.evaluate if again or task.name not in scores or before.get(task.name) != task
    )
    unexported = tuple(
        plugin
        for plugin in recipe.export
        if not trained or old is None or plugin not in old.export or not (run.folder / plugin.name).is_dir()
    )
    return Claim(trained, unexported, unscored, reported=run.report_path.exists())


def _read(run: Run) -> Recipe | None:
    if not run.recipe_path.exists():
        return None
    loaded = loads(run.recipe_path.read_text(encoding="utf-8"), name=str(run.recipe_path))
    return resolve(loaded, REGISTRIES).recipe  # keys that are newer than the lock take their defaults


def _must_be_empty(run: Run) -> None:
    half_written = f".{run.recipe_path.name}."  # of a run that was killed as it began
    found = (path.name for path in run.folder.iterdir())
    others = sorted(name for name in found if name != ".lock" and not name.startswith(half_written))
    if others:
        raise LuthierError(
            f"the output folder is not empty and holds no run ({', '.join(others[:3])}{', …' if others[3:] else ''})",
            where=str(run.folder),
            fix="set another `output:`",
        )


def _must_agree(run: Run, differing: Mapping[str, tuple[Any, Any]]) -> None:
    if not differing:
        return
    named = [f"{key} ({_value(old)} there, {_value(new)} here)" for key, (old, new) in differing.items()]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    raise LuthierError(
        f"this folder holds the run of another recipe; different: {', '.join(named[:SHOWN])}{more}",
        where=str(run.folder),
        fix="set another `output:`, or remove the folder to train anew",
    )


def _value(value: Any) -> str:
    return "nothing" if value is None else show(value)
