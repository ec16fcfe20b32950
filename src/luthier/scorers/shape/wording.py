"""Scorers of wording: does a response go in circles, and is it in the language that was wanted?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.recipe.schema import Why
from luthier.scorers.metric import Metric, text
from luthier.scorers.words import HAN, words
from luthier.types import Example, Response

_NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|\$\$?[^$]*\$\$?|\\[a-zA-Z]+|https?://\S+|</?\w+>", re.DOTALL)
"""Code, mathematics, commands of LaTeX, addresses and tags: the same in every language."""
_CHINESE = re.compile(f"[{HAN}]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class Repetition(Metric):
    """Minus the share of a response's n-grams that were said before in it: 0 where none was, near −1 in a loop.

    A punishment, to be added to what a reward is for. Words are runs of letters and digits; in scripts without spaces
    every letter is one. Fewer than n words repeat nothing.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    needs_reference: ClassVar[bool] = False
    n: Annotated[int, Field(gt=0), Why("shorter runs of words come back in any good text")] = 4
    """How many words in a row make one n-gram."""

    def __call__(self, example: Example, response: Response) -> float | None:
        said = words(text(response))
        runs = list(zip(*(said[start:] for start in range(self.n)), strict=False))
        return (len(set(runs)) / len(runs) - 1.0) if runs else 0.0


@dataclass(frozen=True)
class Language(Metric):
    """The share of a response's words that are in a language's script, as in DeepSeek-R1's reward (arXiv:2501.12948).

    It goes by script: zh is Han letters (each is a word), en is Latin letters, so French passes for English. Code,
    formulas, addresses and numbers do not count; a response of nothing else has 1, an empty one 0.
    """

    needs_reference: ClassVar[bool] = False
    language: Literal["en", "zh"] = "en"
    """The language that is wanted."""

    def __call__(self, example: Example, response: Response) -> float | None:
        said = text(response)
        found = [word for word in words(_NO_LANGUAGE.sub(" ", said)) if _LETTER.search(word)]
        if not found:
            return float(bool(words(said)))
        script = _CHINESE if self.language == "zh" else _LATIN
        return sum(script.match(word) is not None for word in found) / len(found)
