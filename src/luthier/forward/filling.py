"""Which examples share a micro-batch: as many as the token budget holds of what is computed, not of whole rows.

A prefix that rows have in common is computed once, so examples that begin alike are put together where they fit.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from luthier.forward.segments import MIN_SHARED, common
from luthier.types import Encoded


def packed(examples: Sequence[Encoded], budget: int, *, share: bool) -> list[list[int]]:
    """Places of the examples of each micro-batch, the heaviest first.

    By decreasing size each example joins the micro-batch with which it shares most among those it fits into, else the
    first of these; without any sharing that is first-fit decreasing. An example larger than the budget is alone.
    """
    sizes = [computed(example) if share else len(example) for example in examples]
    ranks = _ranks(examples) if share else [0] * len(examples)
    by_rank = {rank: i for i, rank in enumerate(ranks)}
    share = share and any(
        common(examples[by_rank[rank]].identity_ids[0], examples[by_rank[rank + 1]].identity_ids[0]) >= MIN_SHARED
        for rank in range(len(examples) - 1)
    )
    bins: list[_Bin] = []
    for i in sorted(range(len(examples)), key=lambda i: -sizes[i]):
        best, most = None, -1
        for one in bins:
            shared = _shared(examples, i, one, ranks, by_rank) if share else 0
            if one.load + sizes[i] - shared <= budget and shared > most:
                best, most = one, shared
                if not share:
                    break
        if best is None:
            bins.append(_Bin(sizes[i], [i], [ranks[i]]))
        else:
            best.load += sizes[i] - most
            best.examples.append(i)
            insort(best.ranks, ranks[i])
    return [sorted(one.examples) for one in bins]


def padded(examples: Sequence[Encoded], budget: int) -> list[list[int]]:
    """As `packed`, for rows that are padded to the longest: in order of length, so that little is padded."""
    widths = [max(len(ids) for ids in example.ids) for example in examples]
    bins: list[list[int]] = []
    rows = widest = 0
    for i in sorted(range(len(examples)), key=lambda i: (-widths[i], -len(examples[i]))):
        rows, widest = rows + len(examples[i].ids), max(widest, widths[i])
        if not bins or rows * widest > budget:
            bins.append([])
            rows, widest = len(examples[i].ids), widths[i]
        bins[-1].append(i)
    return [sorted(one) for one in bins]


def computed(example: Encoded) -> int:
    """Tokens that go through the model for an example by itself, what its responses begin with in common once."""
    if len(example.ids) == 1:
        return len(example)
    rows = sorted((ids.tolist() for ids in example.identity_ids), key=tuple)
    shared = [_alike(one, other) for one, other in pairwise(rows)]
    return len(example) - sum(length for length in shared if length >= MIN_SHARED)


@dataclass
class _Bin:
    load: int
    """Tokens computed."""
    examples: list[int]
    ranks: list[int] = field(default_factory=list)
    """The places of its examples among all in the order of their tokens: neighbours there have most in common."""


def _ranks(examples: Sequence[Encoded]) -> list[int]:
    order = sorted(range(len(examples)), key=lambda i: examples[i].identity_ids[0].tolist())
    ranks = [0] * len(examples)
    for rank, i in enumerate(order):
        ranks[i] = rank
    return ranks


def _shared(examples: Sequence[Encoded], i: int, one: _Bin, ranks: Sequence[int], by_rank: dict[int, int]) -> int:
    """How many tokens of example i a micro-batch computes anyway."""
    place = bisect_left(one.ranks, ranks[i])
    mine = examples[i].identity_ids[0]
    found = (common(mine, examples[by_rank[rank]].identity_ids[0]) for rank in one.ranks[max(0, place - 1) : place + 1])
    most = max(found, default=0)
    return most if most >= MIN_SHARED else 0


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
