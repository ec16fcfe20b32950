"""Which examples make up each optimiser step: a pure function of (seed, step), so a run resumes anywhere at once.

Every example comes once an epoch; the last step of an epoch takes what is left. The order knows nothing of
micro-batches, so the same recipe sees the same steps on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError


@dataclass(frozen=True)
class Order:
    """The order of `examples` examples in steps of `batch`. Steps count from 0."""

    examples: int
    batch: int
    seed: int = 0
    shuffled: bool = True
    """False: as they lie in the store, every epoch."""

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise LuthierError(
                "there is nothing to train on: no example is left", fix="read the ledger: it counts why rows were lost"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the data."""
        return math.ceil(self.examples / self.batch)

    def total(self, epochs: float, steps: int | None) -> int:
        """Optimiser steps of a run: `steps` if it is set, otherwise `epochs`, rounded up to whole steps."""
        return steps or max(1, math.ceil(epochs * self.steps_per_epoch - 1e-9))

    def epoch(self, step: int) -> float:
        """Passes over the data once step `step` is done."""
        return (step + 1) / self.steps_per_epoch

    def positions(self, step: int) -> NDArray[np.int64]:
        """Store positions of the examples of one step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        every = _shuffled(self.examples, self.seed, epoch) if self.shuffled else np.arange(self.examples)
        return every[within * self.batch : (within + 1) * self.batch]


@lru_cache(maxsize=16)  # a mixture asks for an order of each of its stores
def _shuffled(examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # Raw PCG64 output is fixed for ever; the stream of Generator.permutation may change between numpy versions.
    keys = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(examples)
    return np.argsort(keys, kind="stable")
