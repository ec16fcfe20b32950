"""The keys of `luthier engagement`, given by dotted names as those of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.generation import of_texts
from luthier.recipe.schema import STRICT, Float, Int, Misfit, Why

Rule = Literal["went_on", "not_retried", "not_edited", "thumbs"]
Name = Literal["user", "conversation", "messages", "model", "ended"]
Event = Literal["retried", "edited", "thumbs_up", "thumbs_down"]
FAR = 1e11
"""Seconds of the year 5138: a time beyond it is meant in milliseconds."""


def _listed(value: Any) -> Any:
    """One name or a list of them."""
    return [value] if isinstance(value, str) else value


def moment(value: Any) -> float | None:
    """A time in seconds since 1970: a number, or a date as ISO 8601 writes it (UTC where it names no zone). None where
    it is neither."""
    if isinstance(value, datetime):
        value = value.isoformat()
    if isinstance(value, str):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < FAR:
        return None
    return float(value)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Engagement:
    """`luthier engagement`: what of a log counts as a good response, and who is tested on."""

    label: Annotated[tuple[Rule, ...], BeforeValidator(_listed), Why("the label that stands in every log")] = (
        "went_on",
    )
    """What makes a response good: went_on, not_retried, not_edited, thumbs. Several must hold all."""
    turns: Annotated[Int, Field(gt=0)] = 1
    """went_on: the user spoke at least so many times more."""
    within: Annotated[Float, Field(gt=0), Why("a day")] = 24.0
    """Hours for which a response (and, for lengths, a conversation from its first message) is watched. What was not
    watched so long when the log ends is left out, whatever came of it."""
    until: str | None = None
    """When the log ends. Default: at the last message in it."""
    context: Annotated[Int | None, Field(gt=0)] = None
    """The prompt is at most so many messages before the response (and the system's). Default: all."""
    test: Annotated[Float, Field(ge=0, lt=1), Why("enough to tell how good the labels are learnt")] = 0.1
    """The share of users whose rows go into test.jsonl."""
    salt: str = "luthier"
    """Hashed with each user's name: draws who is tested on, and makes the names of the rows."""
    count: Literal["turns", "messages"] = "turns"
    """What a conversation's length is: how often the user spoke, or messages of both."""
    baseline: str | None = None
    """The model that the others are compared with. Default: the first by name."""
    columns: dict[Name, str] = Field(default_factory=dict)
    """Our name of a column → the log's: columns.model=variant."""
    events: dict[Event, str] = Field(default_factory=dict)
    """Our name of an event → the log's: events.retried=regenerated."""
    seed: Annotated[Int, Field(ge=0)] = 0
    """Draws the resamples of the intervals."""

    @model_validator(mode="after")
    def _can_be(self) -> Engagement:
        if not self.label or len(set(self.label)) < len(self.label):
            raise Misfit("label", "is empty or names a rule twice", "for instance label=[went_on, not_retried]")
        if self.until is not None and moment(self.until) is None:
            raise Misfit("until", f"is {self.until!r}, which is no date", "write it as 2026-11-01T12:00:00Z")
        for key, names in (("columns", self.columns), ("events", self.events)):
            if len(set(names.values())) < len(names):
                raise Misfit(key, "gives two of our names to one of the log's", "name each of the log's once")
        return self


def engagement(overrides: Sequence[str]) -> Engagement:
    """The keys from dotted texts alone. Raises LuthierError as `load` does."""
    return of_texts(overrides, Engagement, "engagement", "docs/engagement.md")
