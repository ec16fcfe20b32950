"""What goes through a model at once, laid out as the loop will: tokens, those that are scored, who attends to whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from luthier.forward.batches import Batch, Layout, micro_batches
from luthier.models.blocks.attention import PIECE
from luthier.types import Encoded

HEAVY, EVEN = 6, 24
"""Steps that are laid out to find the heaviest micro-batch of a run, and to learn what a step takes on average."""


@dataclass(frozen=True)
class Load:
    """A micro-batch, or the mean of several."""

    tokens: float
    """Computed, what rounds their number up included."""
    scored: float
    pairs: float
    """Of a query and a key, as they are computed."""


@dataclass(frozen=True)
class Laid:
    """What a run computes."""

    heaviest: Load
    """Its largest micro-batch behind the first step (of a run of one step, in it)."""
    step: Load
    """What a step takes, all micro-batches together, on average."""
    micro: float
    """Micro-batches of a step."""
    steps: int
    first: Load | None = None
    """The largest micro-batch of the first step, in which the optimiser has no state yet."""
    later: Load | None = None
    """The largest that is not the first of its step: gradients are there already."""


@dataclass(frozen=True)
class Cut:
    """How steps are cut into micro-batches."""

    budget: int
    share: bool = True
    layout: Layout = "packed"
    whole: bool = False
    """A step is one micro-batch, whatever its size."""

    def batches(self, examples: Sequence[Encoded]) -> list[Batch]:
        """The micro-batches of a step."""
        budget = sum(len(example) for example in examples) + 1 if self.whole else self.budget
        return micro_batches(examples, budget, share_prefix=self.share, layout=self.layout)


def of(batch: Batch) -> Load:
    """What a micro-batch takes."""
    if batch.layout == "padded":
        rows, longest = batch.shape
        return Load(rows * longest, len(batch.target_S), rows * longest * longest)
    pairs, ends = 0, list[int]()
    for segment in batch.segments:
        above = 0 if segment.parent is None else ends[segment.parent]
        size = segment.end - segment.start
        ends.append(above + size)
        pairs += sum(min(PIECE, size - start) * (above + min(start + PIECE, size)) for start in range(0, size, PIECE))
    return Load(batch.shape[0] * batch.shape[1], len(batch.target_S), pairs)


def laid(
    step: Callable[[int], Sequence[Encoded]], sizes: Callable[[int], int], total: int, cut: Cut, epoch: int
) -> Laid:
    """What a run of `total` steps computes. `step` gives a step's examples and `sizes` their tokens; `epoch`: steps of
    the first pass over the rows, after which they come again."""
    first = range(min(total, epoch))
    by_size = sorted(first, key=lambda number: -sizes(number))[:HEAVY]
    evenly = {int(number) for number in np.linspace(0, len(first) - 1, min(EVEN, len(first)))}
    found = {number: [of(batch) for batch in cut.batches(step(number))] for number in {0, *by_size, *evenly}}
    behind = [load for number, loads in found.items() for load in loads if number > 0 or total == 1]
    later = [load for loads in found.values() for load in loads[1:]]
    means = [_sum(found[number]) for number in sorted(evenly)]
    mean = Load(*(float(np.mean([getattr(one, key) for one in means])) for key in ("tokens", "scored", "pairs")))
    micro = float(np.mean([len(found[number]) for number in evenly]))
    return Laid(
        _largest(behind or found[0]), mean, micro, total, _largest(found[0]), _largest(later) if later else None
    )


def assumed(lengths: Sequence[int], scored: float, batch: int, cut: Cut, steps: int) -> Laid:
    """As `laid`, of rows of which only the lengths are known, each by itself; `scored`: the share that is scored."""
    sizes = np.sort(np.asarray(lengths))[::-1]
    mean, longest = float(sizes.mean()), int(sizes[0])
    whole = int(min(batch, len(sizes)) * mean)
    heavy = max(longest, min(cut.budget, int(sizes[:batch].sum())))
    micro = max(1.0, whole / (0.9 * max(cut.budget, longest)))
    squares = float((sizes.astype(float) ** 2).mean()) / mean
    heaviest = Load(heavy, scored * heavy, heavy * max(squares, 1.0))
    return Laid(heaviest, Load(whole, scored * whole, whole * squares), micro, steps)


def _largest(loads: Sequence[Load]) -> Load:
    return max(loads, key=lambda load: (load.tokens, load.scored))


def _sum(loads: Sequence[Load]) -> Load:
    return Load(sum(one.tokens for one in loads), sum(one.scored for one in loads), sum(one.pairs for one in loads))
