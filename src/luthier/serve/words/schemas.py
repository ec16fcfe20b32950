"""The JSON schemas of tools' parameters, put where they are a part of another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""Keywords whose keys are names and whose values are schemas: nothing in the names is a keyword."""
DATA = ("const", "enum", "default", "example", "examples")
"""Keywords whose values are no schemas, whatever they look like."""
POINTS = ("$ref", "$dynamicRef", "$recursiveRef")


def parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a tool takes; any object where it does not say."""
    return function.get("parameters") or {"type": "object"}


def beneath(schema: Any, key: str) -> Any:
    """A schema that was a whole, as that of the property `key` of another: `#` there means its root, and so its
    pointers are made to.

    A schema with an `$id` is the root of what it holds wherever it stands, and is left as it is.
    """
    return _moved(schema, f"#/properties/{key}")


def _moved(schema: Any, root: str) -> Any:
    if isinstance(schema, list):
        return [_moved(one, root) for one in schema]
    if not isinstance(schema, Mapping) or _own_root(schema):
        return schema
    return {keyword: _value(keyword, value, root) for keyword, value in schema.items()}


def _value(keyword: str, value: Any, root: str) -> Any:
    if keyword in DATA:
        return value
    if keyword in POINTS and isinstance(value, str):
        return root + value[1:] if value == "#" or value.startswith("#/") else value  # else an anchor, or an address
    if keyword in NAMED and isinstance(value, Mapping):
        return {name: _moved(one, root) for name, one in value.items()}
    return _moved(value, root)


def _own_root(schema: Mapping[str, Any]) -> bool:
    """Drafts before 2019 gave anchors by `$id`, too: "#name"."""
    name = schema.get("$id")
    return isinstance(name, str) and not name.startswith("#")
