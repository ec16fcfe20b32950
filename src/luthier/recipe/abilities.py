"""What the recipe's adapters can do, held against what the recipe asks of the loop and of the export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from luthier.errors import LuthierError
from luthier.recipe.document import Key, dotted
from luthier.recipe.load import Loaded
from luthier.recipe.schema import Recipe, Train
from luthier.registry import Registry

Built = list[tuple[str, Any]]
"""Name and adapter."""


def built(recipe: Recipe, adapters: Registry) -> Built:
    """The recipe's adapters. Raises LuthierError for unknown names and keys."""
    return [(plugin.name, adapters.build(plugin.name, plugin.args)) for plugin in recipe.adapt]


def check(loaded: Loaded, recipe: Recipe, found: Built, exporters: Registry | None = None) -> None:
    """Raises LuthierError where the recipe asks for what an adapter says it cannot do."""

    def refuse(key: Key, what: str, fix: str) -> None:
        origin = loaded.nearest(key)
        raise LuthierError(what, where=str(origin) if origin else dotted(key), fix=fix)

    packless = _without(found, "packs")
    if packless and recipe.train.layout == "packed":
        refuse(("train", "layout"), f"`{packless}` needs rows of their own, not packed ones", "set train.layout=auto")
    remakeless = _without(found, "checkpoints")
    if remakeless and recipe.train.checkpointing is True:
        refuse(
            ("train", "checkpointing"),
            f"`{remakeless}` does not work under gradient checkpointing",
            "set train.checkpointing=false, or take `adapt: lora`",
        )
    if recipe.train.steps is not None:
        for index, (name, adapter) in enumerate(found):
            try:
                adapter.fits(recipe.train.steps)
            except LuthierError as error:
                refuse(("adapt", index, name), error.what, error.fix or "")
    mergeless = _without(found, "mergeable")
    for index, exporter in enumerate(recipe.export):
        if mergeless and exporters is not None and getattr(exporters.get(exporter.name), "merges", False):
            refuse(
                ("export", index),
                f"`{mergeless}` cannot be merged into the base's weights: what it learns is no change of them",
                "leave the export out: the run folder holds the adapter",
            )


def adjust(train: Train, found: Built) -> tuple[Train, dict[Key, str]]:
    """The loop's keys as the adapters need them, each with its reason."""
    reasons: dict[Key, str] = {}
    needs: tuple[tuple[str, str, Callable[[Train], bool], Any, str], ...] = (
        ("packs", "layout", lambda t: t.layout == "auto", "padded", "needs rows of their own"),
        ("shares_prefix", "share_prefix", lambda t: t.share_prefix, False, "treats equal prefixes of rows differently"),
        (
            "checkpoints",
            "checkpointing",
            lambda t: t.checkpointing == "auto",
            False,
            "does not work under gradient checkpointing",
        ),
    )
    for ability, key, open_, value, why in needs:
        name = _without(found, ability)
        if name and open_(train):
            changed: Any = {key: value}
            train = replace(train, **changed)
            reasons["train", key] = f"from adapt: {name} {why}"
    return train, reasons


def _without(found: Built, ability: str) -> str | None:
    """The first adapter that lacks an ability."""
    return next((name for name, adapter in found if not getattr(adapter, ability)), None)
