"""What can be counted of an answer's words, without a model. Of Chinese and Japanese each sign is a word."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from luthier.data.steps.measures import Measure
from luthier.data.steps.said import WORD, answers
from luthier.data.steps.step import holding
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.types import Example


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def words_of(text: str) -> list[str]:
    """Its words, in small letters."""
    return [found.group().casefold() for found in WORD.finditer(text)]


@dataclass(frozen=True)
class TypeToken(Measure):
    """How varied the words of an answer are: different ones over all (1: none is repeated). Of several responses the
    highest. It falls with length by itself, unless a `window` is given."""

    window: Annotated[int, Field(gt=0)] | None = None
    """The mean over all runs of so many words, so that long answers compare with short ones. Default: the whole."""

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        return _highest([[self._of(words_of(text)) for text in answers(one)] for one in batch])

    def _of(self, words: list[str]) -> float:
        if not words:
            return math.nan
        size = min(self.window or len(words), len(words))
        inside = Counter(words[:size])
        total = len(inside)
        for start in range(len(words) - size):
            inside[words[start]] -= 1
            if not inside[words[start]]:
                del inside[words[start]]
            inside[words[start + size]] += 1
            total += len(inside)
        return total / (size * (len(words) - size + 1))


@dataclass(frozen=True)
class Frequency(Measure):
    """How usual the words of an answer are: the mean of log10 of their share among all words of the rows named; of
    several responses the highest. -3 is a word in a thousand. A word that is not there counts as half a word."""

    counts: ClassVar[dict[str, int] | None] = None
    known: ClassVar[str | None] = None

    of: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    """Files of rows whose words are counted: those that are selected from, or general ones."""

    @property
    def wants(self) -> frozenset[str]:  # type: ignore[override]
        """The rows to count, until it has counted them."""
        return frozenset() if self.counts is not None else frozenset({"rows"})

    def identity(self) -> Any:
        return self.known

    def ready(self, tools: Tools) -> Self:
        if self.counts is not None:
            return self
        counts = Counter(chain.from_iterable(words_of(text) for path in self.of for text in _texts(path)))
        if not counts:
            raise LuthierError("there are no words to count", where=", ".join(self.of), fix="name files of rows")
        written = json.dumps(sorted(counts.items()), ensure_ascii=False).encode("utf-8", "surrogatepass")
        return holding(self, counts=dict(counts), known=hashlib.blake2b(written, digest_size=16).hexdigest())

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        assert self.counts is not None, "a step is made ready before it measures"
        total = math.log10(sum(self.counts.values()))
        return _highest([[self._of(text, total) for text in answers(one)] for one in batch])

    def _of(self, text: str, total: float) -> float:
        assert self.counts is not None
        words = words_of(text)
        if not words:
            return math.nan
        return math.fsum(math.log10(self.counts.get(word, 0.5)) - total for word in words) / len(words)


def _highest(values: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Of each row its highest number; NaN where it has none."""
    known = [[value for value in some if not math.isnan(value)] for some in values]
    return np.array([max(some, default=math.nan) for some in known], np.float64)


def _texts(path: str) -> Iterator[str]:
    from luthier.data.reading.feeds import read

    return chain.from_iterable(answers(example) for example in read(path))


__all__ = ["Frequency", "TypeToken", "words_of"]
