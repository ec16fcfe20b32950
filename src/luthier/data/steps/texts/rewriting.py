"""Other words for what a row says, text by text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from luthier.data.curation.stored.changes import texts, with_texts
from luthier.types import Example


def rewritten(example: Example, change: Callable[[str], str]) -> Example:
    """The row with each of its texts changed; the very row where all stay as they are. The tokens that an answer was
    sampled as, and how likely they were, are those of other words then, and go."""
    old = [text for _, text in texts(example)]
    new = [change(text) for text in old]
    if new == old:  # nearly always: the row need not be put together again to see that
        return example
    made = with_texts(example, new)
    responses = tuple(
        one if one.turns == old.turns else replace(one, ids=None, logp=None)
        for one, old in zip(made.responses, example.responses, strict=True)
    )
    return replace(made, responses=responses)


__all__ = ["rewritten"]
