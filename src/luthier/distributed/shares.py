"""Who computes which micro-batch of a step: each process knows the whole step and takes whole micro-batches of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 4096
"""Tokens of a row at which attending to them costs about as much as the matrix products do, for a small model."""
GOOD = 0.96
"""Mean over largest load from which on a cut is not looked at again."""
SLACK = (1.02, 1.05, 1.0, 1.1, 1.2, 0.95, 0.9, 0.8)
"""Room in a micro-batch over its even share of the tokens: rows do not come out even."""


@dataclass(frozen=True)
class Load:
    """What a micro-batch, or an example, has to compute."""

    tokens: int
    squares: int
    """The sum of the squares of its rows' lengths."""

    @property
    def cost(self) -> float:
        """Matrix products by its tokens, attention by the square of each row's."""
        return float(WIDTH * self.tokens + self.squares)


def assign(costs: Sequence[float], world: int) -> list[list[int]]:
    """For each process the places of its micro-batches: the costliest first, each to whoever has the least so far."""
    loads = [0.0] * world
    found: list[list[int]] = [[] for _ in range(world)]
    for place in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min(range(world), key=lambda r: (loads[r], r))
        loads[rank] += costs[place]
        found[rank].append(place)
    return [sorted(places) for places in found]


def balance(costs: Sequence[float], world: int) -> float:
    """The mean load over the largest: 1 where nobody waits."""
    loads = [sum(costs[place] for place in places) for places in assign(costs, world)]
    return sum(loads) / world / max(loads) if any(loads) else 1.0


def even(fill: Callable[[int], list[list[int]]], rows: Sequence[Load], tokens: int, parts: int) -> int:
    """The token budget, at most `tokens`, under which a step has at least `parts` micro-batches (or one for each of its
    examples) that give `parts` processes about the same to do.

    `fill` says which examples share a micro-batch under a budget; `rows` are the examples' loads. The answer is a
    function of the rows, `tokens` and `parts` alone.
    """
    whole = sum(row.tokens for row in rows)
    wanted = min(parts, len(rows))
    if parts == 1 or not rows:
        return tokens
    rounds = max(1, -(-whole // (tokens * parts)))
    best, found = 1, -1.0
    for many in (rounds, rounds + 1):
        for slack in SLACK:
            budget = max(1, min(tokens, int(whole / (many * parts) * slack)))
            pieces = fill(budget)
            good = balance([sum(rows[i].cost for i in piece) for piece in pieces], wanted)  # idle ones change no order
            if len(pieces) >= wanted and good > found + 1e-9:
                best, found = budget, good
            if found >= GOOD:
                return best
    return best
