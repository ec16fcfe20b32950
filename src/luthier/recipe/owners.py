"""Keys of a plug-in that an override gives without its name: `adapt=freeze adapt.cache_backbone=true`.

Which keys a plug-in takes stands in its class, so this asks the registries; the shape of a recipe knows names only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from luthier.recipe.document import Node, Override
from luthier.recipe.schema import Plugin
from luthier.recipe.shape import Slot, every_slot
from luthier.registry import Registry


def named(override: Override, tree: Node, seams: Mapping[str, Registry]) -> Override:
    """The override with the name of the plug-in put in, where its key belongs to the one that stands there (of several:
    to one alone) and is no plug-in's name itself; else as it is."""
    for path, slot in every_slot():
        place = _behind(override.key, path)
        if place is None or slot.seam is None or slot.seam not in seams:
            continue
        registry, key = seams[slot.seam], override.key[place]
        if key in registry.names():
            return override
        owners = [name for name in _standing(tree, override.key[:place], slot) if _takes(registry, name, key)]
        if len(owners) == 1:
            return replace(override, key=(*override.key[:place], owners[0], *override.key[place:]))
    return override


def _behind(key: Sequence[str], path: Sequence[str | int]) -> int | None:
    """The place of the part of `key` that comes next after a slot's path, numbers of entries passed over."""
    rest = list(path)
    for place, part in enumerate(key):
        if part.isdigit():
            continue
        if not rest:
            return place
        if part != rest.pop(0):
            return None
    return None


def _standing(tree: Node, key: Sequence[str], slot: Slot) -> list[str]:
    """The names of the plug-ins that stand at `key`, or of its default where nothing does."""
    node: Node | None = tree
    for part in key:
        if node is not None and isinstance(node.value, list) and not part.isdigit():
            node = node.value[0] if len(node.value) == 1 else None
        node = None if node is None else _child(node.value, part)
        if node is None and part.isdigit():  # an entry that is still to come
            return []
    if node is None:
        default = slot.default if isinstance(slot.default, tuple) else (slot.default,)
        return [plugin.name for plugin in default if isinstance(plugin, Plugin)]
    entries = node.value if isinstance(node.value, list) else [node]
    return [name for entry in entries for name in _names(entry.value)]


def _child(value: Any, part: str) -> Node | None:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list):
        return value[int(part)] if int(part) < len(value) else None
    return None


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []


def _takes(registry: Registry, name: str, key: str) -> bool:
    known = name in registry.names()  # an unknown one is told when the recipe is resolved
    return known and any(field.init and field.name == key for field in dataclasses.fields(registry.get(name)))
