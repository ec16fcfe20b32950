"""The keys of `luthier curate`: those of a recipe that say what the rows are, and nothing of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from luthier.errors import LuthierError
from luthier.recipe import document
from luthier.recipe.document import Node, Origin, Override
from luthier.recipe.generation import built
from luthier.recipe.keys import STRICT, Float, Int
from luthier.recipe.schema import ModelField, Recipe, Sources, Steps, Task
from luthier.recipe.task import tasks
from luthier.registry import suggest


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Curation:
    """Rows, and what is done to them."""

    data: Sources
    """As in a recipe."""
    steps: Steps = ()
    """As in a recipe."""
    model: ModelField | None = None
    """As in a recipe: what steps ask that name no other model."""
    allow_drop: Annotated[Float, Field(ge=0, le=1)] = 0.5
    """As in a recipe."""
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Draws whatever steps draw."""
    evaluate: Annotated[tuple[Task, ...], BeforeValidator(tasks)] = ()
    """As in a recipe: `decontaminate: evaluate` looks for these rows; nothing else is done with them."""


KEYS = tuple(field.name for field in fields(Curation))
STANDARD = "steps=[clean, {pii: report}, dedup]"
"""The steps of files that come without any."""


def of_recipe(path: Path, overrides: Sequence[str] = ()) -> Curation:
    """What a recipe says of its rows; it may be one that says nothing else. Raises LuthierError as `load` does."""
    tree = document.read(path)
    known = [field.name for field in fields(Recipe)]
    for key, node in tree.value.items():
        if key not in known:
            raise LuthierError(f"unknown key {key!r}", where=str(node.origin), fix=suggest(key, known))
    kept = Node({key: node for key, node in tree.value.items() if key in KEYS}, tree.origin)
    return built(kept, _ours(overrides, known), Curation, path.parent)


def of_files(paths: Sequence[str], overrides: Sequence[str] = ()) -> Curation:
    """Files by their names; without other steps, the standard ones."""
    origin = Origin("override", "luthier curate")
    data = Node([Node(path, origin) for path in paths], origin)
    parsed = _ours(overrides, KEYS)
    if not any(one.key[0] == "steps" for one in parsed):
        parsed = [*_ours([STANDARD], KEYS), *parsed]
    return built(Node({"data": data}, origin), parsed, Curation)


def _ours(overrides: Sequence[str], known: Sequence[str]) -> list[Override]:
    """Those that say something of the rows; what a recipe says of other things changes nothing here."""
    parsed = [document.parse_override(text) for text in overrides]
    for one in parsed:
        if one.key[0] not in known:
            what = f"unknown key {one.key[0]!r}"
            raise LuthierError(what, where=str(one.node.origin), fix=suggest(one.key[0], list(known)))
    return [one for one in parsed if one.key[0] in KEYS]


__all__ = ["STANDARD", "Curation", "of_files", "of_recipe"]
