"""How much trains of which rows, and in which order: the keys of `mix:` and `rehearse:`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.keys import STRICT, Float, Int, Misfit, Why
from luthier.recipe.sources import Sources


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Long:
    """`mix.long`: long rows against short ones, by tokens (ProLong, arXiv:2410.02660, mixes 60 to 40)."""

    share: Annotated[Float, Field(gt=0, lt=1), Why("ProLong's: with more, what short rows teach is forgotten")] = 0.6
    """Share of the tokens that long rows have. Whole rows, of which none is cut into another."""
    tokens: Annotated[Int, Field(gt=0)]
    """So many tokens make a row long."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Curriculum:
    """`mix.order`: the easy rows first, every epoch anew, instead of a random order."""

    by: str | dict[str, Any]
    """What is measured of a row: length, words, {column: difficulty}, or a scorer, as for the step `select`."""
    first: Annotated[Literal["low", "high"], Why("what measures little is mostly easy")] = "low"
    """Which come first. Rows that cannot be measured come last."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mix:
    """`mix:` what the shares of rows are counted in, and what decides them besides the sources' `weight`."""

    by: Annotated[Literal["rows", "tokens"], Why("a row is what most people count")] = "rows"
    """What a `weight` is a share of: rows or tokens."""
    temperature: Annotated[Float, Field(ge=1)] | None = None
    """Small groups more often, large ones less: a group of size n has the share n^(1/temperature). 1 leaves all as they
    are, 5 is usual for languages, a large number makes all alike."""
    over: Annotated[Literal["sources", "languages"], Why("each is mostly of one kind")] = "sources"
    """What the groups of `temperature` are. The language is that of what a row trains."""
    long: Long | None = None
    """Long rows against short ones, by tokens."""
    order: Curriculum | None = None
    """The easy rows first."""

    @model_validator(mode="after")
    def _over_something(self) -> Mix:
        if self.over == "languages" and self.temperature is None:
            raise Misfit("over", "says what `temperature` is over, and there is none", "set it, for instance to 5")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rehearse:
    """`rehearse:` general rows that train beside those of the task."""

    data: Sources
    """The general rows. Those that train anyway, or are held out, are not taken."""
    share: Annotated[Float, Field(gt=0, lt=1), Why("enough to remember by, too little to hinder")] = 0.05
    """Share of the tokens of all that trains."""


__all__ = ["Curriculum", "Long", "Mix", "Rehearse"]
