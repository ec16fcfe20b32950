"""Judges that decide by rules, so that what comes of their verdicts is known beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from luthier.scorers.metric import Metric, text
from luthier.types import Example, Response

Rule = Callable[[str, str, str], float | None]
"""The prompt, the answer shown first and the one shown second → what the first has of the win; None: unreadable."""


@dataclass(frozen=True)
class Scripted(Metric):
    """A judge of two answers that are shown beside one another."""

    rule: Rule
    compares: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False

    def __call__(self, example: Example, response: Response) -> float | None:
        raise AssertionError("it is asked about two")

    def met(self, pairs: Sequence[tuple[Example, Response, Response]]) -> list[float | None]:
        return [self.rule(example.prompt[-1].text, text(one), text(other)) for example, one, other in pairs]


def better(prompt: str, first: str, second: str) -> float:
    """By the quality that stands in the answers: q7."""
    one, other = (int(found[1]) if (found := re.search(r"q(\d+)", said)) else 0 for said in (first, second))
    return 0.5 if one == other else float(one > other)


def always_first(prompt: str, first: str, second: str) -> float:
    """Whatever is said."""
    return 1.0


def longer(prompt: str, first: str, second: str) -> float:
    """By length alone."""
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))
