"""Learning-rate schedules: pure functions of the step. Steps count from 0, and no step has a rate of 0.

A run of T steps with w steps of warm-up: step s < w runs at (s + 1) / (w + 1) of the peak, step w at the peak, and
the decay spans steps w to T, so that the step after the last one would reach the floor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up: below 1 a share of the run, from 1 on a number of steps; never the whole run."""
    return min(round(warmup * total) if warmup < 1 else int(warmup), total - 1)


def due_after(every: float, total: int) -> frozenset[int]:
    """After which steps (counted from 1) something that happens `every` so often is due; always after the last.

    Below 1 a share of the run, from 1 on a number of steps.
    """
    if every >= 1:
        return frozenset(range(int(every), total + 1, int(every))) | {total}
    marks = (max(1, round(k * every * total)) for k in range(1, math.floor(1 / every + 1e-9) + 1))
    return frozenset(marks) | {total}


class Schedule(ABC):
    """Shared warm-up; a schedule says what comes after it."""

    def factor(self, step: int, total: int, warmup: int) -> float:
        """The share of the peak rate that step `step` of `total` runs at."""
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return self.after_warmup((step - warmup) / (total - warmup))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The share of the peak at `progress` in [0, 1) of what follows the warm-up."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the peak to `min_ratio` of it (arXiv:1608.03983, eq. 5, without restarts)."""

    min_ratio: Share = 0.0
    """Where it ends, as a share of the peak."""

    def after_warmup(self, progress: float) -> float:
        return self.min_ratio + (1 - self.min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from the peak to `min_ratio` of it."""

    min_ratio: Share = 0.0
    """Where it ends, as a share of the peak."""

    def after_warmup(self, progress: float) -> float:
        return 1 - (1 - self.min_ratio) * progress


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak, to the end."""

    def after_warmup(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay (arXiv:2404.06395, §4): the peak, then a straight line over the last `decay` share."""

    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the steps after the warm-up over which it decays."""
    min_ratio: Share = 0.0
    """Where it ends, as a share of the peak."""

    def after_warmup(self, progress: float) -> float:
        return 1 - (1 - self.min_ratio) * max(0.0, progress - (1 - self.decay)) / self.decay
