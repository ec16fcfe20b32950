"""Rows on disk as a step source: a token store in a fixed order, and several of them mixed by share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from luthier.errors import LuthierError
from luthier.train.sources.order import Order
from luthier.types import Encoded, TokenStore


class Fixed:
    """What sources have in common whose steps are a function of their number alone."""

    may_prefetch = True

    def state(self) -> dict[str, Any]:
        """Nothing: any step can be asked for at any time."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to put back."""


@dataclass(frozen=True)
class Static(Fixed):
    """A token store in its order, `total` steps of it."""

    store: TokenStore
    order: Order
    total: int

    @property
    def identity(self) -> str:
        """The store's content."""
        return self.store.digest

    def next(self, step: int, version: int) -> list[Encoded]:
        """The examples of one step, whatever the weights are."""
        return [self.store[position] for position in self.order.positions(step).tolist()]

    def epoch(self, step: int) -> float:
        """Passes over the store once step `step` is done."""
        return self.order.epoch(step)

    def every(self) -> TokenStore:
        """The store."""
        return self.store

    def heaviest(self, budget: int) -> list[Encoded]:
        """The step of the first epoch with the longest row, or with the most tokens up to the budget."""
        lengths = np.asarray(self.store.lengths)
        weights = []
        for step in range(min(self.total, self.order.steps_per_epoch)):
            chosen = lengths[self.order.positions(step)]
            weights.append(max(int(chosen.max()), min(budget, int(chosen.sum()))))
        return self.next(int(np.argmax(weights)), 0)


@dataclass(frozen=True)
class Part:
    """A store of a mixture and its share of each step."""

    store: TokenStore
    share: float


@dataclass(frozen=True)
class Mixture(Fixed):
    """Several stores; each gives its share of every step, in an order of its own, over and over.

    After t steps a store has given its share of all examples to within one: what does not come out even in one step is
    made up in the next ones.
    """

    parts: tuple[Part, ...]
    batch: int
    total: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts or any(part.share <= 0 for part in self.parts):
            raise LuthierError("every part of a mixture needs a share above 0", fix="leave a part out to do without it")

    @cached_property
    def identity(self) -> str:
        """The stores' content and their shares."""
        told = repr([(part.store.digest, part.share) for part in self.parts])
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    def next(self, step: int, version: int) -> list[Encoded]:
        """The examples of one step, part by part."""
        before, after = self._given(step), self._given(step + 1)
        return [
            part.store[_position(len(part.store), self.seed + number, place)]
            for number, part in enumerate(self.parts)
            for place in range(before[number], after[number])
        ]

    def epoch(self, step: int) -> float:
        """Passes over the store that is seen most often."""
        given = self._given(step + 1)
        return max(count / len(part.store) for count, part in zip(given, self.parts, strict=True))

    def every(self) -> Sequence[Encoded]:
        """All examples of all stores."""
        return [part.store[i] for part in self.parts for i in range(len(part.store))]

    def heaviest(self, budget: int) -> list[Encoded]:
        """The longest examples of all parts, as many as a step has: no step of the run needs more."""
        every = sorted(self.every(), key=len, reverse=True)
        return every[: self.batch]

    @cached_property
    def _steps(self) -> list[list[int]]:
        """How many examples each part has given before each step, as far as was asked for."""
        return [[0] * len(self.parts)]

    def _given(self, step: int) -> list[int]:
        """How many examples each part has given before step `step`."""
        while len(self._steps) <= step:
            given = list(self._steps[-1])
            begin = (len(self._steps) - 1) * self.batch
            for place in range(begin, begin + self.batch):
                given[self._turn(given, place)] += 1
            self._steps.append(given)
        return self._steps[step]

    def _turn(self, given: Sequence[int], place: int) -> int:
        """Which part gives the example at `place` of the run.

        A part whose share is s gives its example j at one of the places from j / s on and before (j + 1) / s: then it
        is never an example off. Of those whose time has come it is the one whose time ends first, which keeps all.
        """
        whole = sum(part.share for part in self.parts)
        shares = [part.share / whole for part in self.parts]
        ready = [n for n, share in enumerate(shares) if given[n] < (place + 1) * share - 1e-9] or range(len(shares))
        return min(ready, key=lambda n: ((given[n] + 1) / shares[n], n))


def _position(examples: int, seed: int, place: int) -> int:
    """Where in a store the example lies that comes at `place` in its endless order."""
    return int(Order(examples, 1, seed).positions(place)[0])
