"""Who computes which micro-batch of a step: each process knows the whole step and takes whole micro-batches of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

WIDTH = 4096
"""Tokens of a row at which attending to them costs about as much as the matrix products do, for a small model."""
GOOD = 0.97
"""Mean over largest load from which on a cut is not looked at again."""
SLACK = (1.02, 1.05, 1.0, 1.1, 1.2, 0.95, 0.9, 0.8)
"""Room in a micro-batch over its even share of the tokens: rows do not come out even."""


class Piece(Protocol):
    """What is asked of a micro-batch."""

    @property
    def tokens(self) -> int: ...
    @property
    def examples(self) -> Sequence[Sized]: ...


class Sized(Protocol):
    """What is asked of an example: its tokens, and those of each row."""

    def __len__(self) -> int: ...
    @property
    def ids(self) -> Sequence[Any]: ...


Some = TypeVar("Some", bound=Piece)


def cost(piece: Piece) -> float:
    """What a micro-batch costs: matrix products by its tokens, attention by the square of each row's."""
    squares = sum(len(ids) ** 2 for example in piece.examples for ids in example.ids)
    return float(WIDTH * piece.tokens + squares)


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


def cut(lay_out: Callable[[int], list[Some]], examples: Sequence[Sized], tokens: int, parts: int) -> list[Some]:
    """A step's micro-batches of at most `tokens` tokens, so cut that `parts` processes have about the same to do.

    There are at least `parts` of them wherever the step has so many examples; otherwise, one for each. The cut is a
    function of the rows, the budget and `parts` alone.
    """
    whole = sum(len(example) for example in examples)
    wanted = min(parts, len(examples))
    if parts == 1 or not examples:
        return lay_out(tokens)
    rounds = max(1, -(-whole // (tokens * parts)))
    best: list[Some] = []
    found = -1.0
    for many in (rounds, rounds + 1):
        for slack in SLACK:
            budget = max(1, min(tokens, int(whole / (many * parts) * slack)))
            pieces = lay_out(budget)
            if len(pieces) < wanted:
                continue
            good = balance([cost(piece) for piece in pieces], parts)
            if good > found + 1e-9:
                best, found = pieces, good
            if found >= GOOD:
                return best
    return best or lay_out(1)
