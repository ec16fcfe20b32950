"""What `select` goes by: one number for each row. Any scorer will do, too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from luthier.data.steps.columns import number, of_files
from luthier.data.steps.said import answers, words
from luthier.data.steps.step import holding
from luthier.data.steps.tools import Tools
from luthier.registry import Registry
from luthier.types import Example, GroupScorer, ManyScorer, Scorer

LONGEST = 1024
"""A longer text among the keys is no path."""
MEASURES = Registry(
    "measure",
    {
        "column": "luthier.data.steps.measures:Column",
        "frequency": "luthier.data.selecting.wording:Frequency",
        "ifd": "luthier.data.selecting.likelihood:Ifd",
        "length": "luthier.data.steps.measures:Characters",
        "less": "luthier.data.selecting.influence:Less",
        "perplexity": "luthier.data.selecting.likelihood:Perplexity",
        "superfilter": "luthier.data.selecting.likelihood:Superfilter",
        "taught": "luthier.data.selecting.taught:Taught",
        "tokens": "luthier.data.selecting.likelihood:Tokens",
        "type_token": "luthier.data.selecting.wording:TypeToken",
        "words": "luthier.data.steps.measures:Words",
    },
)


class Measure(ABC):
    """One number for each row; NaN where nothing can be said."""

    version: ClassVar[int] = 1
    """Raise it when the same keys give other numbers."""
    wants: ClassVar[frozenset[str]] = frozenset()
    """As of a step."""
    most: ClassVar[float | None] = None
    """What measures more is not taken, unless `max` says otherwise."""

    @property
    def reads(self) -> frozenset[str]:
        """As of a step."""
        return frozenset()

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
    """A number that the rows have themselves: a column of their file, `reward` (of several responses the highest), or
    what can be counted: turns, words, length, responses."""

    version: ClassVar[int] = 2

    name: str = "reward"
    """Which."""

    @property
    def reads(self) -> frozenset[str]:
        """The one that is named."""
        return of_files(frozenset({self.name}))

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        return np.array([number(one, self.name) for one in batch], np.float64)


@dataclass(frozen=True)
class Scored(Measure):
    """What a scorer says of a row's responses; of several the highest."""

    wants: ClassVar[frozenset[str]] = frozenset({"scorer"})
    scorer: ClassVar[Scorer | None] = None

    name: str
    keys: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> Any:
        """A run that is trained anew, or a file that is written anew, is another scorer."""
        return sorted([str(path), *stamp] for path in _paths(self.keys) for stamp in _stamps(path))

    def ready(self, tools: Tools) -> Self:
        return holding(self, scorer=tools.scorer((self.name, self.keys)))

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        assert self.scorer is not None, "a step is made ready before it measures"
        found = np.full(len(batch), np.nan)
        if isinstance(self.scorer, GroupScorer) and self.scorer.sees_group:
            for n, example in enumerate(batch):
                self._enter(found, [n] * len(example.responses), self.scorer.group(example, example.responses))
            return found
        places = [(n, response) for n, example in enumerate(batch) for response in example.responses]
        pairs = [(batch[n], response) for n, response in places]
        if isinstance(self.scorer, ManyScorer):
            scores = self.scorer.many(pairs)  # a model is asked for all of them at once
        else:
            scores = [self.scorer(*pair) for pair in pairs]
        self._enter(found, [n for n, _ in places], scores)
        return found

    def _enter(self, found: NDArray[np.float64], places: Sequence[int], scores: Sequence[float | None]) -> None:
        for n, score in zip(places, scores, strict=True):
            found[n] = np.fmax(found[n], np.nan if score is None else score)


def _paths(value: Any) -> Iterator[Path]:
    """All that is there on the disk of what the keys name; a function in a file is named `file:function`."""
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _paths(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str | Path) and 0 < len(str(value)) < LONGEST and "\n" not in str(value):
        file = str(value).rpartition(":")[0]
        there = [path for path in (Path(str(value)), Path(file)) if str(path) != "." and path.expanduser().exists()]
        yield from (path.expanduser().resolve() for path in there[:1])


def _stamps(path: Path) -> list[list[Any]]:
    """Name, size and time of a file; of a folder, those of its weights."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return [[one.name, one.stat().st_size, one.stat().st_mtime_ns] for one in files]


def named(given: str | dict[str, Any]) -> Measure:
    """The measure that a recipe names; a scorer where there is no measure of the name."""
    name, keys = (given, {}) if isinstance(given, str) else next(iter(given.items()))
    keys = {} if keys is None else keys if isinstance(keys, dict) else {"": keys}
    if name in MEASURES.names():
        made: Measure = MEASURES.build(name, keys)
        return made
    return Scored(name, keys)


__all__ = ["MEASURES", "Measure", "named"]
