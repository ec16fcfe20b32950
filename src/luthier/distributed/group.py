"""The one place where processes of a run would meet: which rows are ours, and sums over all of us.

A run is one process so far. The loop already asks here, so that several processes change this file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """This process among all of the run."""

    rank: int = 0
    world: int = 1

    def mine(self, examples: Sequence[Item]) -> Sequence[Item]:
        """Our part of a step's examples."""
        return examples[self.rank :: self.world]

    def total(self, value: float) -> float:
        """The sum of `value` over all processes."""
        return value

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors (gradients, losses) over all processes, in place."""
