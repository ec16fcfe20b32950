"""From a YAML file and command-line overrides to a `Recipe`, with where each value came from."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from luthier.errors import LuthierError
from luthier.recipe import document, former, owners, places, shape
from luthier.recipe.document import Key, Node, Origin, Override, dotted
from luthier.recipe.schema import Misfit, Recipe
from luthier.registry import Registry


@dataclass(frozen=True)
class Loaded:
    """A recipe with its origins. `notes` says what was decided about single values, for `luthier explain`."""

    recipe: Recipe
    origins: Mapping[Key, Origin] = field(default_factory=dict)
    notes: Mapping[Key, str] = field(default_factory=dict)
    path: Path | None = None
    renamed: tuple[str, ...] = ()
    """A line for each key that was given by an old name."""

    def nearest(self, key: Key) -> Origin | None:
        """Where the value at `key`, or the mapping it stands in, was written; None if nothing of it was."""
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key)


Seams = Mapping[str, Registry]
"""Kind of plug-in → its registry. The registries live in the upper rooms and are handed in."""


def load(path: str | Path, overrides: Sequence[str] = (), seams: Seams | None = None) -> Loaded:
    """Read a recipe, set the overrides, validate. Raises LuthierError with file, line and key, or the override.

    With `seams` an override may leave out the name of the plug-in whose key it sets (`adapt.r=8`).
    """
    path = Path(path)
    return built(document.read(path), _parsed(overrides), path, seams)


def loads(text: str, overrides: Sequence[str] = (), seams: Seams | None = None, *, name: str = "recipe") -> Loaded:
    """As `load`, from a text."""
    return built(document.parse(text, name), _parsed(overrides), None, seams)


def override(recipe: Recipe, overrides: Sequence[str], seams: Seams | None = None) -> Loaded:
    """A recipe made in Python, with dotted overrides set."""
    from luthier.recipe.resolve import tree

    node = _from_python(tree(recipe))
    return built(node, _parsed(overrides), None, seams)


def _from_python(value: Any) -> Node:
    origin = Origin("python")
    if isinstance(value, dict):
        return Node({key: _from_python(item) for key, item in value.items()}, origin)
    if isinstance(value, list):
        return Node([_from_python(item) for item in value], origin)
    return Node(value, origin)


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return [document.parse_override(text) for text in overrides]


def built(tree: Node, overrides: Sequence[Override], path: Path | None, seams: Seams | None) -> Loaded:
    """As `load`, from a tree that was read already, of a file at `path` if it is one."""
    renamed: list[str] = []
    tree = former.current(tree, renamed)
    for item in former.overrides(list(overrides), renamed):
        tree = shape.apply(tree, owners.named(item, tree, seams) if seams else item)
    tree = shape.normal(tree, Recipe)
    notes = places.find(tree, path.parent if path else None)
    nodes = dict(tree.walk())
    try:
        recipe = TypeAdapter(Recipe).validate_python(tree.plain())
    except ValidationError as error:
        fault = plain_words(error, nodes)
        if renamed:  # the writer knows the key by its old name
            fault = LuthierError(f"{fault.what} ({'; '.join(renamed)})", where=fault.where, fix=fault.fix)
        raise fault from error
    return Loaded(recipe, {key: node.origin for key, node in nodes.items() if key}, notes, path, tuple(renamed))


# pydantic's errors in plain words
_WORDS = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "dataclass_type": "must be a mapping of keys to values",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}


def plain_words(error: ValidationError, nodes: Mapping[Key, Node]) -> LuthierError:
    """The first fault as one message: key, what it must be, the value, and where it was written."""
    faults = error.errors()
    keys = [_longest(_place(fault), nodes) for fault in faults]
    key = keys[0]
    same = [fault for fault, other in zip(faults, keys, strict=True) if other == key]  # a union gives one per member
    musts = [_must(fault) for fault in same]
    if len(musts) > 1:
        musts = [must.removeprefix("must be ") for must in musts]
        what = f"{dotted(key)} must be {' or '.join(musts)}"
    else:
        what = f"{dotted(key)} {musts[0]}"
    node = nodes.get(key)
    misfit = _misfit(same[0])
    if misfit is not None:
        what = f"{dotted((*tuple(same[0]['loc']), misfit.key))} {misfit.what}"
        return LuthierError(what, where=str(node.origin) if node else None, fix=misfit.fix)
    value = node.plain() if node else same[0]["input"]
    if not isinstance(value, dict | list) and "value_error" not in {fault["type"] for fault in same}:
        what += f", got {value!r}" if value is not None else ", got nothing"
    return LuthierError(what, where=str(node.origin) if node else None, fix=_fix(same, value, dotted(key)))


def _misfit(fault: Any) -> Misfit | None:
    error = fault.get("ctx", {}).get("error")
    return error if isinstance(error, Misfit) else None


def _place(fault: Any) -> Key:
    """Where a fault lies: at the key that does not fit the others, where one is named."""
    misfit = _misfit(fault)
    return (*fault["loc"], misfit.key) if misfit is not None else tuple(fault["loc"])


def _must(fault: Any) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    words = _WORDS.get(fault["type"])
    return words.format(**fault.get("ctx", {})) if words else str(fault["msg"])


def _longest(loc: Key, nodes: Mapping[Key, Node]) -> Key:
    """pydantic's location, cut to what stands in the recipe: unions and plug-ins add steps of their own."""
    while loc and loc not in nodes:
        loc = loc[:-1]
    return loc


def _fix(faults: Sequence[Any], value: Any, key: str) -> str:
    if any(fault["type"] == "string_type" for fault in faults) and isinstance(value, int | float):
        return f'put it in quotes: "{value}"'
    expected = [word for fault in faults for word in re.findall(r"'([^']+)'", fault.get("ctx", {}).get("expected", ""))]
    near = difflib.get_close_matches(str(value), expected, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"docs/recipes.md says what {key} takes"
