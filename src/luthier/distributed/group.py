"""The processes of a run, as one object that everything asks which concerns more than one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Group:
    """This process among all of the run."""

    rank: int = 0
    world: int = 1

    def mine(self, examples: Sequence[Item]) -> Sequence[Item]:
        """Our part of a step's micro-batches."""
        return examples[self.rank :: self.world]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors (gradients, losses) over all processes, in place."""
