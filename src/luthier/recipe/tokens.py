"""Which of the scored tokens train: the keys of token cleaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from luthier.recipe.keys import STRICT, Float, Int, Misfit, Place, Why


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TokenCleaning:
    """`tokens:` token cleaning (arXiv:2502.01968): only what a reference model has learnt most of trains."""

    reference: Place
    """A run that has learnt from a part of the rows, of the same tokenizer: each token is worth what its
    log-probability has gained against the base."""
    base: Place | None = None
    """What the reference began as. Default: the recipe's model."""
    keep: Annotated[Float, Field(gt=0, le=1), Why("what the paper found best")] = 0.6
    """The share of the scored tokens that train."""
    of: Annotated[Literal["all", "row"], Why("noise is in some rows more than in others")] = "all"
    """Of all rows together, or of each row."""
    part: Annotated[Int, Field(gt=0)] | None = None
    """Only this part of the rows, counted from 1: self-evolving cleaning trains on part after part, each with the run
    before as its reference."""
    parts: Annotated[Int, Field(gt=1)] | None = None
    """Into how many parts the rows are divided, by what they say."""

    @model_validator(mode="after")
    def _whole(self) -> TokenCleaning:
        if (self.part is None) != (self.parts is None):
            raise Misfit("parts" if self.parts is None else "part", "is missing", "give both: part 1 of 4 parts")
        if self.part is not None and self.parts is not None and self.part > self.parts:
            raise Misfit("part", f"is {self.part} of {self.parts}", "count from 1 up to `parts`")
        return self


__all__ = ["TokenCleaning"]
