"""Rows whose answers are too short or too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from luthier.data.steps.said import answers, words
from luthier.data.steps.step import Dropped, Outcome, RowStep
from luthier.data.steps.tools import Tools
from luthier.types import Example


@dataclass(frozen=True)
class Length(RowStep):
    """Leaves out rows with an answer that is too short or too long; of a plain text the text counts. Rows without an
    answer pass."""

    min: Annotated[int, Field(ge=0)] = 0
    """The shortest answer."""
    max: Annotated[int, Field(gt=0)] | None = None
    """The longest answer. Default: any."""
    unit: Literal["characters", "words"] = "characters"
    """What is counted. In Chinese and Japanese each sign is a word."""

    def __post_init__(self) -> None:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:,}) is more than max ({self.max:,}): no answer could be both")

    def apply(self, example: Example, tools: Tools) -> Outcome:
        for said in answers(example):
            length = words(said) if self.unit == "words" else len(said)
            if length < self.min:
                return Dropped(f"an answer is shorter than {self.min:,} {self.unit}", f"{length:,}")
            if self.max is not None and length > self.max:
                return Dropped(f"an answer is longer than {self.max:,} {self.unit}", f"{length:,}")
        return example
