"""Files and folders that a recipe names: taken from the current directory, then from the recipe's own folder.

A run stores them absolute, so that it opens from any directory.
"""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

from luthier.recipe.aliases import ALIASES
from luthier.recipe.document import Key, Node
from luthier.recipe.schema import Model, Plugin, Recipe, Source, Task


def is_place(name: str) -> bool:
    """Does a model's name mean a file or folder that is there? A short name never does: such a folder is `./name`."""
    return name not in ALIASES and Path(name).expanduser().exists()


def absolute(path: str) -> str:
    """The path from the root of the file system; an address of the web as it is."""
    if path.startswith(("http://", "https://")):
        return path
    return str(Path(path).expanduser().resolve())


def find(tree: Node, folder: Path | None) -> dict[Key, str]:
    """Point relative paths that exist only beside the recipe, in `folder`, there; say so in the notes by key."""
    notes: dict[Key, str] = {}
    if folder is None:
        return notes
    for key, node in tree.walk():
        given = node.value
        if not isinstance(given, str) or not _names_a_place(key, given):
            continue
        if Path(given).is_absolute() or _exists(given) or "://" in given:
            continue
        beside = str(folder / given)
        if _exists(beside):
            node.value = beside
            notes[key] = f"{given} found beside the recipe"
    return notes


def _names_a_place(key: Key, given: str) -> bool:
    if key in (("model", "name"), ("reference", "model", "name"), ("teacher", "model", "name")):
        return given not in ALIASES
    is_source = len(key) >= 3 and "data" in key and key[-1] in ("path", "llamafactory")
    if len(key) >= 4 and key[-3] == "benchmark":
        return key[-1] in ("path", "")
    return is_source or key[-2:] in (("reward_model", "run"), ("reward_model", ""))


def _exists(path: str) -> bool:
    if not glob.has_magic(path):
        return Path(path).exists()
    return Path(path).exists() or any(True for _ in Path(Path(path).anchor or ".").glob(path.lstrip("/")))


def models_located(recipe: Recipe) -> Recipe:
    """The recipe with the folders and files of its models absolute."""

    def model(given: Model) -> Model:
        return replace(given, name=absolute(given.name)) if is_place(given.name) else given

    second = recipe.reference.model
    reference = recipe.reference if second is None else replace(recipe.reference, model=model(second))
    teacher = recipe.teacher
    if teacher is not None and teacher.model is not None:
        teacher = replace(teacher, model=model(teacher.model))
    return replace(recipe, model=model(recipe.model), reference=reference, teacher=teacher)


def located(recipe: Recipe) -> Recipe:
    """The recipe with the paths of its data and models absolute, so that its lock works from any directory."""

    def sources(items: tuple[Source, ...]) -> tuple[Source, ...]:
        return tuple(
            replace(
                source,
                path=source.path and absolute(source.path),
                llamafactory=source.llamafactory and absolute(source.llamafactory),
            )
            for source in items
        )

    general = recipe.rehearse
    return replace(
        models_located(recipe),
        data=sources(recipe.data),
        rehearse=None if general is None else replace(general, data=sources(general.data)),
        validate=replace(recipe.validate, data=sources(recipe.validate.data)),
        evaluate=tuple(_task_located(task, sources(task.data)) for task in recipe.evaluate),
    )


def _task_located(task: Task, data: tuple[Source, ...]) -> Task:
    """A task with its rows at these places, a benchmark's files absolute where they are there."""
    benchmark = task.benchmark
    if benchmark is None:
        return replace(task, data=data)
    args = {
        key: absolute(value) if key in ("path", "") and isinstance(value, str) and is_place(value) else value
        for key, value in benchmark.args.items()
    }
    return replace(task, benchmark=Plugin(name=benchmark.name, args=args))
