"""One registry for every seam: names to lazily imported classes, with suggestions for a misspelt name.

A plug-in is a frozen dataclass whose fields are its YAML keys. Built-in plug-ins are listed by an import
path, so that knowing their names costs no import; third parties add theirs through Python entry points in
the group `luthier.<kind>`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from luthier.errors import LuthierError

T = TypeVar("T")


def suggest(name: str, known: list[str]) -> str:
    """' Did you mean x?' for the nearest known name, or the list of known names when none is near."""
    same = [one for one in known if _plainly(one) == _plainly(name)]  # but for capitals and dashes
    near = same or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"


def _plainly(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _written(place: tuple[Any, ...], value: Any) -> list[str]:
    """pydantic's place of a fault, cut to what was written: it adds steps of its own for unions and keys."""
    found: list[str] = []
    for step in place:
        listed = isinstance(value, list | tuple) and isinstance(step, int)
        if not listed and not (isinstance(value, Mapping) and step in value):
            break
        found, value = [*found, str(step)], value[step]
    return found


class Registry:
    """The plug-ins of one kind ("objective", "adapter", "scorer", …)."""

    def __init__(
        self, kind: str, builtin: Mapping[str, str] | None = None, elsewhere: Mapping[str, str] | None = None
    ) -> None:
        """`elsewhere`: names that people look for here, and what stands for each."""
        self.kind, self._elsewhere = kind, dict(elsewhere or {})
        self._targets: dict[str, Any] = dict(builtin or {})
        self._external: dict[str, Any] | None = None

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Decorator: add a class under `name`."""

        def add(cls: type[T]) -> type[T]:
            self._targets[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """Every known name, sorted."""
        return sorted({*self._targets, *self._entry_points()})

    def get(self, name: str) -> Any:
        """The class behind `name`. Raises LuthierError with a suggestion when there is none."""
        target = self._targets.get(name)
        if target is None:
            point = self._entry_points().get(name)
            if point is None:
                fix = self._elsewhere.get(_plainly(name)) or suggest(name, self.names())
                raise LuthierError(f"unknown {self.kind} {name!r}", fix=fix)
            target = point.load()
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(import_module(module), attribute)
        self._targets[name] = target
        return target

    def build(self, name: str, args: Mapping[str, Any] | None = None) -> Any:
        """An instance of the plug-in `name` with `args` as its fields, types and ranges checked by pydantic."""
        from pydantic import TypeAdapter, ValidationError

        cls = self.get(name)
        known = [f.name for f in fields(cls) if f.init]
        args = {known[0] if key == "" and known else key: value for key, value in (args or {}).items()}
        rest = getattr(cls, "rest", None)
        if rest is not None:  # a plug-in that hands keys on says which of its fields takes those it does not know
            others = {key: value for key, value in args.items() if key not in known}
            args = {key: value for key, value in args.items() if key in known}
            if others and isinstance(args.get(rest, {}), Mapping):
                args[rest] = {**args.get(rest, {}), **others}
        for key in args:
            if key not in known:
                what = f"has no key {key!r}" if key else f"takes no value, but has {args[key]!r}"
                raise LuthierError(
                    f"{self.kind} {name!r} {what}", fix=suggest(key, known) if known else "it takes no keys"
                )
        fix = f"docs/recipes.md lists the keys of {name} and what each takes"
        try:
            made = TypeAdapter(cls).validate_python(args)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "missing":
                raise LuthierError(f"{self.kind} {name!r} needs the key {first['loc'][-1]!r}", fix=fix) from error
            key = ".".join(_written(first["loc"], args))
            place = f", key {key!r}" if key else ""  # a fault between keys is one of the whole
            must = f"{first['msg'].replace('Input should be', 'must be')}, got {first['input']!r}"
            what = first["ctx"]["error"] if first["type"] == "value_error" else must
            raise LuthierError(f"{self.kind} {name!r}{place}: {what}", fix=fix) from error
        for key in args:
            value = getattr(made, key)
            if isinstance(value, float) and not math.isfinite(value):
                what = f"{self.kind} {name!r}, key {key!r}: must be a finite number, got {value}"
                raise LuthierError(what, fix=fix)
        return made

    def _entry_points(self) -> dict[str, Any]:
        if self._external is None:
            self._external = {point.name: point for point in entry_points(group=f"luthier.{self.kind}")}
        return self._external
