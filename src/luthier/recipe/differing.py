"""What of two recipes differs: the keys that shape the weights, and plug-ins that stand in one another's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.recipe.document import Key, dotted
from luthier.recipe.places import absolute
from luthier.recipe.resolve import flat, is_free, tree
from luthier.recipe.schema import Recipe


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """The keys that shape the weights and differ, with both values (None where absent)."""
    a, b = flat(old), flat(new)
    # a folder that is gone by now is the same one for all that
    for key in ("model.name", "reference.model.name", "teacher.model.name"):
        if key in a and key in b and absolute(b[key]) == a[key]:
            b[key] = a[key]
    for key, names in _exchanged(tree(old), tree(new)):  # the keys of either say nothing of the other
        a = {other: value for other, value in a.items() if not other.startswith(f"{key}.")} | {key: names[0]}
        b = {other: value for other, value in b.items() if not other.startswith(f"{key}.")} | {key: names[1]}
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key) and not is_free(key)]
    return {key: (a.get(key), b.get(key)) for key in keys}


def _exchanged(old: Any, new: Any, key: Key = ()) -> Iterator[tuple[str, tuple[str, str]]]:
    """Where one plug-in stands in the place of another: the dotted key, and both names."""
    names = _plugin_of(old), _plugin_of(new)
    if names[0] is not None and names[1] is not None and names[0] != names[1]:
        yield dotted(key), (names[0], names[1])
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() & new.keys():
            yield from _exchanged(old[name], new[name], (*key, name))
    elif isinstance(old, list) and isinstance(new, list):
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from _exchanged(one, other, (*key, index))


def _plugin_of(value: Any) -> str | None:
    """The name of a plug-in, as a tree holds it with its keys."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, args),) = value.items()
        return str(name) if isinstance(args, dict) else None
    return None
