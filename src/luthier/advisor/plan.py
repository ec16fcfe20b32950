"""Ways to train that are held against some rows, a model and a machine, and the one that is proposed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.advisor.forecast import Forecast
from luthier.advisor.hardware import Hardware
from luthier.advisor.rules import Rule, holding
from luthier.advisor.setup import Setup

HALF: dict[str, Any] = {"freeze": {"bottom": 0.5}}
SHORTEST = 64
"""Rows are given room in steps of so many tokens."""
CHECKED = 0.05
"""Share of the rows that the proposal holds out, where there are enough."""
ENOUGH = 200


@dataclass(frozen=True)
class Way:
    """One way to train."""

    name: str
    adapt: Any
    quantize: str | None = None
    checkpointing: bool = False

    @property
    def bits(self) -> str:
        """Of the base's matrices."""
        return {"nf4": "4", "int8": "8"}.get(self.quantize or "", "16")


WAYS = (
    Way("full", "full"),
    Way("freeze half", HALF),
    Way("oft", "oft"),
    Way("lora", "lora"),
    Way("freeze half + lora", [HALF, "lora"]),
    Way("lora + checkpointing", "lora", checkpointing=True),
    Way("qlora", "lora", "nf4"),
    Way("qlora + checkpointing", "lora", "nf4", checkpointing=True),
)
"""What is compared. `qlora` is LoRA on a base in 4 bits."""


@dataclass(frozen=True)
class Candidate:
    """A way with what it would take."""

    way: Way
    setup: Setup
    forecast: Forecast
    fits: bool | None

    @property
    def share(self) -> float:
        """Of the model's numbers, how much trains."""
        return self.setup.trains.numbers / self.setup.shape.total


@dataclass(frozen=True)
class Plan:
    """What is proposed, and why."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    others: tuple[Candidate, ...]
    """Two alternatives."""
    facts: Mapping[str, Any]
    rules: tuple[Rule, ...]
    """Those that hold, those of this case first."""
    why: tuple[tuple[str, str], ...]
    """Reasons of the choice, each with its source."""

    @property
    def said(self) -> list[Rule]:
        """Rules that hold because of these rows, this model and this machine."""
        return [rule for rule in self.rules if rule.when]


def candidates(
    expected: Callable[[Way], tuple[Setup, Forecast]], hardware: Hardware, ways: Sequence[Way] = WAYS
) -> list[Candidate]:
    """Each way with what it would take on some hardware."""
    found = []
    for way in ways:
        setup, forecast = expected(way)
        found.append(Candidate(way, setup, forecast, forecast.fits(hardware)))
    return found


def choose(found: Sequence[Candidate], facts: Mapping[str, Any]) -> Plan:
    """The way that rules prefer among those that fit; where none fits, the smallest."""
    fitting = [one for one in found if one.fits]
    told = {**facts, "fits": True if fitting else "maybe" if any(one.fits is None for one in found) else False}
    rules = tuple(holding(told))
    preferring = [rule for rule in rules if rule.prefers]
    why: list[tuple[str, str]] = []
    if not fitting:
        ranked = sorted(found, key=lambda one: one.forecast.memory.total)
        why.append(("none of these surely fits; this one takes the least memory", "predicted"))
    else:
        ranked = sorted(fitting, key=lambda one: _rank(one, preferring))
        for rule in preferring:
            if ranked[0].way.name in rule.prefers:
                why.append((rule.says, f"{rule.source} ({rule.id})"))
        left_out = {name for rule in preferring for name in rule.prefers[:1]} - {one.way.name for one in fitting}
        for name in sorted(left_out & {one.way.name for one in found}):
            one = next(each for each in found if each.way.name == name)
            why.append((f"{name} would need {one.forecast.said_memory()}", "predicted"))
    chosen = ranked[0]
    others = [one for one in ranked[1:] if one.way.adapt != chosen.way.adapt or one.way.quantize != chosen.way.quantize]
    rest = [one for one in sorted(found, key=lambda one: one.forecast.memory.total) if one not in ranked]
    return Plan(tuple(found), chosen, tuple([*others, *rest][:2]), told, rules, tuple(why))


def _rank(one: Candidate, preferring: Sequence[Rule]) -> tuple[float, float]:
    """How far down the rules' lists it stands, together: what a list does not name stands below all that it names."""
    places = [
        rule.prefers.index(one.way.name) if one.way.name in rule.prefers else len(rule.prefers) + 3
        for rule in preferring
    ]
    return float(sum(places)), one.forecast.memory.total


def room(longest: int, p99: int, context: int | None) -> tuple[int, str | None]:
    """`train.max_tokens` for rows of such lengths, and what becomes of longer ones (`train.long_rows`; None: there are
    none)."""
    wanted = longest if longest <= 2 * p99 else p99
    tokens = -(-wanted // SHORTEST) * SHORTEST
    tokens = tokens if context is None else min(tokens, context)
    return max(tokens, 2), None if longest <= tokens else "drop"


def recipe(way: Way, base: Mapping[str, Any], sets: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a way as it is written: `base` (model, data, output, train, …) with what rules set."""
    written: dict[str, Any] = {key: value for key, value in base.items() if key not in ("train", "output")}
    train = dict(base.get("train", {}))
    for key, value in sets.items():
        first, _, rest = key.partition(".")
        if rest:
            train[rest] = value
        else:
            written[first] = value
    written["adapt"] = way.adapt
    if way.quantize:
        written["quantize"] = way.quantize
    if way.checkpointing:
        train["checkpointing"] = True
    return {**written, "train": train, "output": base["output"]}
