"""One comparison of two answers, in both orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.evaluate.ratings.bias import side


@dataclass(frozen=True)
class Bout:
    """What a judge said of two models' answers to one prompt."""

    question: str
    """Which prompt: rows that ask the same have the same."""
    one: str
    other: str
    orders: tuple[float | None, float | None]
    """The share of the win that `one` has where it is shown first, and where it is shown second; None: unreadable."""
    longer: int
    """By so many characters the answer of `one` is longer."""
    same: bool = False
    """Both said the same, and nobody was asked."""

    @property
    def won(self) -> float | None:
        """1: `one` wins, 0: `other`, ½: neither, or each order names another one; None: an order could not be read."""
        first, second = self.orders
        if first is None or second is None:
            return None
        return (1 + side(first)) / 2 if side(first) == side(second) else 0.5

    def row(self) -> dict[str, Any]:
        """As a line of a file."""
        return {
            "question": self.question,
            "one": self.one,
            "other": self.other,
            "won": self.won,
            "orders": list(self.orders),
            "longer": self.longer,
            "same": self.same,
        }
