"""The scorer of mathematical answers: is the final answer of a solution that of the row?"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from luthier.recipe.schema import Why
from luthier.scorers.maths.algebra import algebra
from luthier.scorers.maths.comparing import same
from luthier.scorers.maths.finding import by_mark, by_words, conclusion, final_answer
from luthier.scorers.maths.spelling import plain
from luthier.scorers.metric import Metric, reference, require, text
from luthier.types import Example, Response

ECHO = 4
"""Words from which on a response that stands in the prompt is its echo."""
SLACK = 100
"""Characters by which a response that is only the answer may be spelt longer."""


@dataclass(frozen=True)
class Maths(Metric):
    """1 when a solution's final answer equals that of the row, otherwise 0.

    The answer stands after `####`, in `\\boxed{}` or in `<answer>`, after "the answer is", or is the last number; the
    row's is found alike, in a whole solution too. Numbers, fractions, percentages, units, lists, sets, tuples and
    intervals are compared by value, expressions by math-verify (extra `maths`). None where the row has no answer, and
    where algebra failed or ran out of time.
    """

    marked: bool = False
    """Only an answer that is marked or named as one counts, not the last number."""
    symbolic: bool = True
    """Compare expressions, too. false: what is neither number, list nor word is wrong; needs no extra."""
    seconds: Annotated[float, Field(gt=0), Why("most comparisons take hundredths; sympy may think for ever")] = 5.0
    """How much of a processor's time one comparison of expressions may take."""

    def __post_init__(self) -> None:
        if self.symbolic:
            require("math-verify", "math_verify", "maths", "maths")

    @property
    def waits(self) -> bool:
        return self.symbolic

    def lacks(self, example: Example) -> str | None:
        row = reference(example)
        return None if row is not None and expected_answer(row) else "no `answer`"

    def __call__(self, example: Example, response: Response) -> float | None:
        row = reference(example)
        expected = None if row is None else expected_answer(row)
        if not expected:
            return None
        said = text(response).strip()
        if len(said) <= len(expected) + SLACK and plain(said).casefold() == plain(expected).casefold():
            return 1.0
        found = final_answer(said, self.marked or _echoes(example, said))
        if found is None:
            return 0.0
        told = same(expected, found, algebra(self.seconds) if self.symbolic else _wrong)
        return None if told is None else float(told)

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The scores of many responses, in order; expressions are compared side by side."""
        if len(pairs) < 2 or not self.symbolic:
            return super().many(pairs)
        with ThreadPoolExecutor(algebra(self.seconds).size) as threads:
            return list(threads.map(lambda pair: self(*pair), pairs))

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        return [None if score is None else (score, 1.0) for score in self.many(pairs)]


def expected_answer(row: str) -> str:
    """The final answer of a row: what a whole solution marks or names as its own, else all of it."""
    said = conclusion(row)
    marked = by_mark(said)
    return (marked if marked is not None else by_words(said) or said).strip()


def _echoes(example: Example, said: str) -> bool:
    """Does a response only repeat what it was asked?"""
    words = said.split()
    return len(words) >= ECHO and any(" ".join(words) in " ".join(turn.text.split()) for turn in example.prompt)


def _wrong(expected: str, found: str) -> bool:
    return False
