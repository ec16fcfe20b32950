"""What `select` goes by: one number for each row. Any scorer will do, too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from luthier.data.steps.said import answers, words
from luthier.data.steps.step import holding
from luthier.data.steps.tools import Tools
from luthier.registry import Registry
from luthier.types import Example, Scorer

MEASURES = Registry(
    "measure",
    {
        "column": "luthier.data.steps.measures:Column",
        "length": "luthier.data.steps.measures:Characters",
        "words": "luthier.data.steps.measures:Words",
    },
)


class Measure(ABC):
    """One number for each row; NaN where nothing can be said."""

    version: ClassVar[int] = 1
    """Raise it when the same keys give other numbers."""
    wants: ClassVar[frozenset[str]] = frozenset()
    """As of a step."""

    def identity(self) -> Any:
        """As of a step."""
        return None

    def ready(self, tools: Tools) -> Self:
        """As of a step."""
        return self

    @abstractmethod
    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        """The number of each row."""


@dataclass(frozen=True)
class Characters(Measure):
    """Characters of what is answered; of several responses the longest."""

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        return np.array([max(map(len, answers(one)), default=np.nan) for one in batch], np.float64)


@dataclass(frozen=True)
class Words(Measure):
    """Words of what is answered, in Chinese and Japanese signs; of several responses the longest."""

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        return np.array([max(map(words, answers(one)), default=np.nan) for one in batch], np.float64)


@dataclass(frozen=True)
class Column(Measure):
    """A number that the rows have themselves: `reward` (of several responses the highest), or what a shape keeps."""

    name: str = "reward"
    """Which."""

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        return np.array([self._of(one) for one in batch], np.float64)

    def _of(self, example: Example) -> float:
        if self.name == "reward":
            return max((one.reward for one in example.responses if one.reward is not None), default=np.nan)
        value = example.meta.get(self.name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


@dataclass(frozen=True)
class Scored(Measure):
    """What a scorer says of a row's responses; of several the highest."""

    wants: ClassVar[frozenset[str]] = frozenset({"scorer"})
    scorer: ClassVar[Scorer | None] = None

    name: str
    keys: dict[str, Any] = field(default_factory=dict)

    def ready(self, tools: Tools) -> Self:
        return holding(self, scorer=tools.scorer((self.name, self.keys)))

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        return np.array([self._of(one) for one in batch], np.float64)

    def _of(self, example: Example) -> float:
        assert self.scorer is not None, "a step is made ready before it measures"
        scores = [self.scorer(example, response) for response in example.responses]
        return max((score for score in scores if score is not None), default=np.nan)


def named(given: str | dict[str, Any]) -> Measure:
    """The measure that a recipe names; a scorer where there is no measure of the name."""
    name, keys = (given, {}) if isinstance(given, str) else next(iter(given.items()))
    keys = {} if keys is None else keys if isinstance(keys, dict) else {"": keys}
    if name in MEASURES.names():
        made: Measure = MEASURES.build(name, keys)
        return made
    return Scored(name, keys)


__all__ = ["MEASURES", "Measure", "named"]
