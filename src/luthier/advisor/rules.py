"""Rules of thumb from one readable file (rules.yaml): which of them hold of some rows, a model and a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from luthier.errors import LuthierError

Kind = Literal["advice", "default", "warning"]
FACTS = (
    "rows", "tokens", "p50", "p99", "longest", "memory", "device", "cards", "numbers", "goal", "kind", "imbalance",
    "duplicates", "languages", "long", "code", "fits",
)  # fmt: skip
"""What a rule may ask for."""
_COMPARED = re.compile(r"(<=|>=|<|>)\s*(-?[\d.]+)")
_BETWEEN = re.compile(r"(-?[\d.]+?)\.\.(-?[\d.]+)")


@dataclass(frozen=True)
class Newer:
    """What differs from a rule, and who found it."""

    says: str
    source: str


@dataclass(frozen=True)
class Rule:
    """One rule."""

    id: str
    kind: Kind
    source: str
    says: str
    when: Mapping[str, Any]
    prefers: tuple[str, ...]
    sets: Mapping[str, Any]
    newer: tuple[Newer, ...]

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Do its conditions hold? One that asks for a fact that is not known does not."""
        return all(name in facts and _meets(facts[name], asked) for name, asked in self.when.items())


def _meets(value: Any, asked: Any) -> bool:
    if value is None:
        return False
    if isinstance(asked, list):
        return any(_meets(value, one) for one in asked)
    if isinstance(asked, str) and isinstance(value, int | float) and not isinstance(value, bool):
        if found := _COMPARED.fullmatch(asked):
            limit = float(found[2])
            return {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[found[1]]
        if found := _BETWEEN.fullmatch(asked):
            return float(found[1]) <= value < float(found[2])
    return bool(value == asked) and isinstance(value, bool) == isinstance(asked, bool)


@cache
def rules() -> tuple[Rule, ...]:
    """All of them, in the file's order. Raises LuthierError where the file holds what is no rule."""
    text = files("luthier.advisor").joinpath("rules.yaml").read_text(encoding="utf-8")
    return read(text)


def read(text: str) -> tuple[Rule, ...]:
    """The rules of a text. Raises LuthierError for one that lacks something, asks for an unknown fact, or has another
    one's id."""
    found: list[Rule] = []
    for entry in yaml.safe_load(text):
        name = entry.get("id", f"number {len(found) + 1}")
        missing = [key for key in ("id", "kind", "source", "says") if not entry.get(key)]
        unknown = [key for key in entry if key not in KEYS]
        strange = [fact for fact in entry.get("when", {}) if fact not in FACTS]
        twice = any(rule.id == name for rule in found)
        if missing or unknown or strange or twice or entry["kind"] not in ("advice", "default", "warning"):
            what = missing or unknown or strange or [name if twice else entry["kind"]]
            raise LuthierError(f"the rule {name!r} is none: {', '.join(what)}", where="rules.yaml", fix="see its head")
        found.append(
            Rule(
                name, entry["kind"], entry["source"], " ".join(entry["says"].split()), entry.get("when", {}),
                tuple(entry.get("prefers", ())), entry.get("sets", {}),
                tuple(Newer(" ".join(one["says"].split()), one["source"]) for one in entry.get("newer", ())),
            )
        )  # fmt: skip
    return tuple(found)


@dataclass(frozen=True)
class Line:
    """A line of a guide, and where it is shown."""

    guide: str
    line: str
    command: str
    rules: tuple[str, ...]


@cache
def lines() -> tuple[Line, ...]:
    """The lines of the guides that rules and commands answer to, in the guides' order."""
    text = files("luthier.advisor").joinpath("lines.yaml").read_text(encoding="utf-8")
    return tuple(Line(one["guide"], one["line"], one["command"], tuple(one["rules"])) for one in yaml.safe_load(text))


KEYS = ("id", "kind", "source", "when", "says", "prefers", "sets", "newer")


def holding(facts: Mapping[str, Any], among: Sequence[Rule] | None = None) -> list[Rule]:
    """The rules that hold, those with conditions first: they say something of this case."""
    found = [rule for rule in (rules() if among is None else among) if rule.holds(facts)]
    return sorted(found, key=lambda rule: not rule.when)
