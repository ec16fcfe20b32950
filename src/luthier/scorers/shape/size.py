"""Scorers of length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.recipe.schema import Why
from luthier.scorers.metric import Metric, text
from luthier.scorers.words import words
from luthier.types import Example, Response

Unit = Literal["tokens", "words", "characters"]


def size(response: Response, unit: Unit) -> int:
    """How long a response is. Tokens are those that it was sampled as; one that was not sampled is counted in words
    (a letter each in scripts without spaces), because no tokenizer is at hand to say what a token is."""
    if unit == "tokens" and response.ids is not None:
        return len(response.ids)
    return len(text(response)) if unit == "characters" else len(words(text(response)))


@dataclass(frozen=True)
class Length(Metric):
    """1 when a response is as long as wanted, falling in a straight line to 0 outside."""

    needs_reference: ClassVar[bool] = False
    least: Annotated[int, Field(ge=0)] = 0
    """The shortest that is wanted."""
    most: Annotated[int, Field(ge=0)] = 200
    """The longest that is wanted."""
    fade: Annotated[int, Field(ge=0)] = 0
    """So far outside the score is 0, half as far one half. 0: outside is 0 at once."""
    unit: Annotated[Unit, Why("the same for every model")] = "words"
    """What is counted: words (a letter each in scripts without spaces), characters, or tokens; a response that was
    not sampled has no tokens, and is counted in words."""

    def __post_init__(self) -> None:
        if self.least > self.most:
            what = f"scorer 'length': `least` ({self.least}) is more than `most` ({self.most})"
            raise LuthierError(what, fix="change one of them")

    def __call__(self, example: Example, response: Response) -> float | None:
        long = size(response, self.unit)
        outside = max(self.least - long, long - self.most, 0)
        return float(outside == 0) if self.fade == 0 else max(1.0 - outside / self.fade, 0.0)


@dataclass(frozen=True)
class Overlong(Metric):
    """The soft overlong punishment of DAPO (arXiv:2503.14476, eq. 13).

    0 up to `limit` − `cache` tokens, from there in a straight line to −1 at `limit`, and −1 beyond. A response that was
    not sampled has no tokens, and is counted in words.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    needs_reference: ClassVar[bool] = False
    limit: Annotated[int, Field(gt=0)]
    """L_max: the longest that is borne, in tokens; for instance `max_new_tokens`."""
    cache: Annotated[int | None, Field(gt=0), Why("the paper's 4,096 of 20,480")] = None
    """L_cache: over how many tokens the punishment rises. Default: a fifth of `limit`."""

    def __post_init__(self) -> None:
        if self.cache is not None and self.cache > self.limit:
            what = f"scorer 'overlong': `cache` ({self.cache}) is more than `limit` ({self.limit})"
            raise LuthierError(what, fix="lower it, or leave it out for a fifth of the limit")

    def __call__(self, example: Example, response: Response) -> float | None:
        cache = self.cache or max(self.limit // 5, 1)
        over = size(response, "tokens") - (self.limit - cache)
        return -min(max(over / cache, 0.0), 1.0) + 0.0
