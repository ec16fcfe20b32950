"""Long texts in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from luthier.data.steps.step import Outcome, RowStep
from luthier.data.steps.tools import Tools
from luthier.types import RAW, Example, Response

ENDS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),
    re.compile(r"[.!?。！？]+[\"”’」』）)]*\s*"),
    re.compile(r"\s+|[，、；]"),
)
"""Where a text may be cut, the best places first: paragraphs, lines, sentences, words."""


@dataclass(frozen=True)
class Chunk(RowStep):
    """Cuts plain texts into pieces of at most so many characters, at ends of paragraphs where there are some; put
    together they are the text. Other rows pass."""

    size: Annotated[int, Field(gt=0)] = 2000
    """The longest piece, in characters."""

    def apply(self, example: Example, tools: Tools) -> Outcome:
        one = example.responses[0] if len(example.responses) == 1 and not example.prompt else None
        if one is None or len(one.turns) != 1 or one.turns[0].role != RAW or len(one.turns[0].text) <= self.size:
            return example
        turn = one.turns[0]
        return tuple(
            replace(example, responses=(Response((replace(turn, text=piece),)),)) for piece in self._pieces(turn.text)
        )

    def _pieces(self, text: str) -> Iterator[str]:
        start = 0
        while len(text) - start > self.size:
            end = next(filter(None, (self._last(pattern, text, start) for pattern in ENDS)), start + self.size)
            yield text[start:end]
            start = end
        yield text[start:]

    def _last(self, pattern: re.Pattern[str], text: str, start: int) -> int | None:
        """Where such an end is, the last one that leaves a piece at least half as long as it may be."""
        found = None
        for match in pattern.finditer(text, start + self.size // 2, start + self.size):
            found = match.end()
        return found
