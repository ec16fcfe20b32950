"""Rows with their texts mended."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from luthier.data.cleaning import Cleaning, spelling
from luthier.data.cleaning.cleaner import ROUNDS
from luthier.data.steps.step import Dropped, Noted, Outcome, RowStep
from luthier.data.steps.texts.rewriting import rewritten
from luthier.data.steps.tools import Tools
from luthier.types import Example, Response

TWICE = "an answer that cleaning made equal to another, which has a different score, is left out"
ALL_EQUAL = "its answers, whose scores differ, are equal after cleaning"


@dataclass(frozen=True)
class Clean(Cleaning, RowStep):
    """Mends texts: wrong encodings, what cannot be seen, leftovers of web pages, advertisements, white space. Rows of
    which nothing is left are left out, and plain texts that are nothing but advertisement. One answer has one score: of
    answers that become equal the first stays where their scores differ."""

    version = 2

    def apply(self, example: Example, tools: Tools) -> Outcome:
        prompt = [turn.text for turn in example.prompt]
        said = [turn.text for response in example.responses for turn in response.turns]
        for text in said if not prompt else ():  # an answer of nothing else is what was asked for
            if (reason := self.empty(text)) is not None:
                return Dropped(reason)
        if all(self.quiet(text) for text in (*prompt, *said)) and example.answer is None:
            return example
        made = self._mended(example)
        if made is example:
            return example
        left = [turn for response in made.responses for turn in response.turns]
        if any(said) and not any(turn.text or turn.calls or turn.media for turn in left):
            return Dropped("nothing is left after cleaning")
        return _judged_once(example, made)

    def _mended(self, example: Example) -> Example:
        """The row with its texts clean, over and over until none changes: a question that was mended may tell more of
        what is meant than it did before."""
        for _ in range(ROUNDS):
            context = "\n".join(turn.text for turn in example.prompt)
            made = rewritten(example, partial(self.clean, context=context))
            if made is example:
                break
            example = made
        return example

    def ready(self, tools: Tools) -> Self:
        self.prepare()
        return self

    def identity(self) -> Any:
        words = Path(self.spelling).expanduser() if self.spelling not in (None, "common") else None
        return {
            "unicode": unicodedata.unidata_version,
            "packages": [_version(name) for name, used in (("ftfy", self.mojibake), ("opencc", self.script)) if used],
            "spelling": sorted(spelling.read(str(words)).pairs.items()) if words is not None else None,
        }


def _judged_once(before: Example, made: Example) -> Outcome:
    """The row without the answers that cleaning made equal to an earlier one of another score. Answers that were equal
    as they came stay: nothing was done to them."""
    kept: list[tuple[Response, Response]] = []
    for pair in zip(before.responses, made.responses, strict=True):
        if not any(_contradicts(pair, earlier) for earlier in kept):
            kept.append(pair)
    left = len(made.responses) - len(kept)
    if not left:
        return made
    if len(kept) == 1:  # one answer, better and worse than itself, compares nothing
        return Dropped(ALL_EQUAL)
    return Noted(replace(made, responses=tuple(now for _, now in kept)), (TWICE,) * left)


def _contradicts(pair: tuple[Response, Response], earlier: tuple[Response, Response]) -> bool:
    (was, now), (was_earlier, first) = pair, earlier
    same = now.turns == first.turns and was.turns != was_earlier.turns
    return same and (now.reward, now.step_rewards) != (first.reward, first.step_rewards)


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


__all__ = ["Clean"]
