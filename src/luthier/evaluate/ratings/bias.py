"""What a judge goes by besides the answers: place and length; and what so many verdicts can prove."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.evaluate.intervals.rates import POWER, Estimate, Z, mcnemar, wilson

CONSISTENT, READ = 0.6, 0.9
"""A judge below either is none, and nobody is called the winner by it."""


@dataclass(frozen=True)
class Bias:
    """Shares with Wilson's intervals; None where there was nothing to count."""

    asked: int
    read: Estimate | None
    """The share of the judge's answers that could be read."""
    first: Estimate | None
    """The share of verdicts for a side that named the one shown first."""
    consistent: Estimate | None
    """The share of comparisons with the same outcome in both orders."""
    longer: Estimate | None
    """The share of wins that went to the longer answer."""

    @property
    def unusable(self) -> str | None:
        """In words, why nobody can be called the winner by this judge; None: it will do."""
        if self.read is not None and self.read.value < READ:
            return f"only {self.read.value:.0%} of the judge's answers could be read (it takes {READ:.0%})"
        if self.consistent is not None and self.consistent.value < CONSISTENT:
            return (
                f"the judge says the same in both orders in only {self.consistent.value:.0%} of the comparisons "
                f"(it takes {CONSISTENT:.0%})"
            )
        return None


def bias(orders: Sequence[tuple[float | None, float | None]], longer: Sequence[int], *, placed: bool = True) -> Bias:
    """Of comparisons in both orders. `orders`: what the first answer's share of the win was where it was shown first,
    and where it was shown second (None: unreadable); `longer`: by how much it is longer. `placed`: hangs what the judge
    says on the place at all? Scores of a reward model do not."""
    said = [share for both in orders for share in both if share is not None]
    first = [(one if place == 0 else 1 - one) for both in orders for place, one in enumerate(both) if one is not None]
    both_read = [(one, other) for one, other in orders if one is not None and other is not None]
    same = sum(side(one) == side(other) for one, other in both_read)
    wins = [
        side(one) == math.copysign(1, much)
        for (one, other), much in zip(orders, longer, strict=True)
        if one is not None and other is not None and side(one) == side(other) != 0 and much
    ]
    decided = [share for share in first if share != 0.5]
    return Bias(
        asked=2 * len(orders),
        read=_rate(len(said), 2 * len(orders)),
        first=_rate(sum(share > 0.5 for share in decided), len(decided)) if placed else None,
        consistent=_rate(same, len(both_read)) if placed else None,
        longer=_rate(sum(wins), len(wins)),
    )


def side(share: float) -> int:
    """1: the first answer, −1: the other one, 0: neither."""
    return (share > 0.5) - (share < 0.5)


def _rate(count: int, of: int) -> Estimate | None:
    return Estimate(count / of, *wilson(count, of)) if of else None


def provable(n: int) -> int | None:
    """The fewest of n verdicts that must name one side before chance is ruled out at 5 %, two-sided (the sign test);
    None where not even all would do."""
    return next((count for count in range((n + 1) // 2, n + 1) if mcnemar(count, n - count) < 0.05), None)


def needed(rate: float) -> int:
    """So many verdicts show a true win rate four times out of five: of 60 %, 194."""
    off = abs(rate - 0.5)
    return math.ceil(((Z * 0.5 + POWER * math.sqrt(rate * (1 - rate))) / off) ** 2)
