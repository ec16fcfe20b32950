"""What rows are, as far as a plan hangs on it: what kind, in which languages, how balanced, how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.data.cleaning.language import language, scripts
from luthier.errors import LuthierError
from luthier.types import RAW, Example

Kind = Literal["answers", "pairs", "labels", "texts", "prompts", "steps"]
LOOKED_AT, ASKED_FOR_LANGUAGE = 2000, 100
"""Rows that are looked at, the first ones, and those among them whose language is told."""
GOOD = 0.5
CLASSES = 50
"""Of more different answers nobody says that they are classes."""
RARE = 0.02
"""A language of fewer rows counts for none."""


@dataclass(frozen=True)
class Seen:
    """What the first rows say."""

    rows: int
    kind: Kind
    good: int
    bad: int
    answers: int
    """Different answers; 0 where they are too many to be classes."""
    largest: int
    """Rows that have the commonest of these answers."""
    smallest: int
    languages: dict[str, float]
    """Shares of languages, or of scripts where only those can be told."""
    code: bool
    """Most answers hold code."""

    @property
    def imbalance(self) -> float | None:
        """How many times the larger of two labels, or the largest class, is the smallest."""
        if self.kind == "labels" and self.good and self.bad:
            return max(self.good, self.bad) / min(self.good, self.bad)
        return self.largest / self.smallest if self.answers > 1 and self.smallest else None


def look(examples: Iterable[Example]) -> Seen:
    """What the first of these rows are."""
    found = list(islice(examples, LOOKED_AT))
    if not found:
        raise LuthierError("there is no row to make a plan for", fix="see what `luthier data` says of the file")
    kinds = Counter(_kind(example) for example in found)
    kind = max(kinds, key=lambda one: kinds[one])
    labels = [example.responses[0].reward for example in found if len(example.responses) == 1]
    good = sum(reward > GOOD for reward in labels if reward is not None)
    bad = sum(reward <= GOOD for reward in labels if reward is not None)
    answers = [_answer(example) for example in found if example.responses]
    classes = Counter(answers)
    few = 1 < len(classes) <= min(CLASSES, len(answers) // 4)
    counts = classes.values() if few else [0]
    code = sum("```" in answer or "def " in answer for answer in answers) > len(answers) / 2
    step = max(1, len(found) // ASKED_FOR_LANGUAGE)
    return Seen(
        len(found), kind, good, bad, len(classes) if few else 0, max(counts), min(counts),
        _languages([_said(example) for example in found[::step]]), bool(answers) and code,
    )  # fmt: skip


def _kind(example: Example) -> Kind:
    responses = example.responses
    if not responses:
        return "prompts"
    if any(response.step_rewards is not None for response in responses):
        return "steps"
    if len(responses) > 1:
        return "pairs"
    if responses[0].reward is not None:
        return "labels"
    return "texts" if all(turn.role == RAW for turn in responses[0].turns) and not example.prompt else "answers"


def _answer(example: Example) -> str:
    return "\n".join(turn.text for turn in example.responses[0].turns).strip()


def _said(example: Example) -> str:
    return _answer(example) if example.responses else "\n".join(turn.text for turn in example.prompt)


def _languages(texts: Iterable[str]) -> dict[str, float]:
    names = Counter[str]()
    for text in texts:
        try:
            names[language(text).code] += 1
        except LuthierError:  # a script of many languages, and nothing installed that tells them apart
            shares = scripts(text)
            names[f"{max(shares, key=lambda name: shares[name])} letters" if shares else "und"] += 1
    names.pop("und", None)
    total = max(sum(names.values()), 1)
    return {name: count / total for name, count in names.most_common() if count / total >= RARE}


@dataclass(frozen=True)
class Rows:
    """Rows with their tokens."""

    seen: Seen
    lengths: NDArray[Any]
    """Tokens of each example."""
    scored: float
    """Share of the tokens that trains."""
    duplicates: int

    @property
    def count(self) -> int:
        """How many examples train."""
        return len(self.lengths)

    def percentile(self, share: float) -> int:
        """Tokens that so many of a hundred rows have at most."""
        return int(np.percentile(self.lengths, share, method="inverted_cdf"))

    def facts(self, context: int | None) -> dict[str, Any]:
        """What rules ask for. `context`: the longest sequence of the model."""
        seen = self.seen
        long = 0.0 if context is None else float((self.lengths > context / 2).mean())
        known = {
            "rows": self.count, "tokens": int(self.lengths.sum()), "p50": self.percentile(50),
            "p99": self.percentile(99), "longest": int(self.lengths.max()), "kind": seen.kind,
            "imbalance": seen.imbalance, "duplicates": self.duplicates / max(self.count, 1),
            "languages": len(seen.languages), "long": long, "code": seen.code,
        }  # fmt: skip
        return {name: value for name, value in known.items() if value is not None}
