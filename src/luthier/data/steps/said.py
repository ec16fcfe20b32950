"""What a row says, for steps that count or compare it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.types import Example, Turn

WORD = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[^\W_]+(?:['’][^\W_]+)*")
"""A run of letters and digits, or a single sign of Chinese or Japanese: these write no spaces."""


def answers(example: Example) -> list[str]:
    """Each response as text; of a plain text the text itself."""
    return ["\n".join(turn.text for turn in response.turns) for response in example.responses]


def spoken(example: Example) -> Iterator[Turn]:
    """All turns, those of the prompt first."""
    yield from example.prompt
    for response in example.responses:
        yield from response.turns


def words(text: str) -> int:
    """How many words it has."""
    return len(WORD.findall(text))


__all__ = ["WORD", "answers", "spoken", "words"]
