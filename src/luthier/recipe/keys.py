"""What the keys of a recipe are made of: numbers, texts, plug-ins, and what is said beside them.

Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclasses.dataclass(frozen=True)
class Why:
    """Why a default is what it is: shown by `luthier explain` and in docs/recipes.md."""

    text: str


@dataclasses.dataclass(frozen=True)
class Seam:
    """The kind of plug-in a field names: the registry that knows its names and keys."""

    kind: str


class Misfit(ValueError):
    """A key that does not go with the others of its mapping: what is wrong with it, and what to do."""

    def __init__(self, key: str, what: str, fix: str) -> None:
        self.key, self.what, self.fix = key, what, fix
        super().__init__(f"{key} {what}")


def _number(value: Any) -> Any:
    """YAML's true is not the number 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]


def _expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    return value


Expression = Annotated[str, AfterValidator(_expression)]


def _text(value: Any) -> Any:
    """From Python a place may be a path."""
    if isinstance(value, str) and "\0" in value:
        raise ValueError("holds a NUL character, which no name of a file does")
    return str(value) if isinstance(value, PurePath) else value


Place = Annotated[str, BeforeValidator(_text)]


def _plugin(value: Any) -> Any:
    """A plug-in is written `name`, `{name: {key: value}}`, or `{name: value}` for its first key."""
    if isinstance(value, str):
        return {"name": value, "args": {}}
    if isinstance(value, dict) and not {"name", "args"} >= set(value):
        if len(value) != 1:
            raise ValueError(f"must name one plug-in, not {len(value)}: {', '.join(map(str, value))}")
        name, args = next(iter(value.items()))
        return {"name": name, "args": {} if args is None else args if isinstance(args, dict) else {"": args}}
    return value


def listed(value: Any) -> Any:
    """One thing or a list of things."""
    return value if isinstance(value, list | tuple) else [value]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Plugin:
    """A plug-in by name, with the keys the recipe sets on it."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)


PluginField = Annotated[Plugin, BeforeValidator(_plugin)]
