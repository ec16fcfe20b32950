"""Who is how strong, from games of two: Bradley-Terry (1952), told as Elo, and whom to let play next.

Shape suffixes: P = players, G = games, B = resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SCALE = 400 / math.log(10)
"""Elo: 400 points are ten to one."""
START = 1000.0
RESAMPLES = 200
Ratings = NDArray[np.float64]
Game = tuple[int, int, float]
"""Two players, and what the first one got: 1, 0, or something between."""


def bradley_terry(
    games: Sequence[Game] | NDArray[np.float64],
    players: int,
    *,
    prior: float = 1.0,
    rounds: int = 2000,
    close: float = 1e-9,
    counts_G: NDArray[np.float64] | None = None,
) -> Ratings:
    """The strengths under which these results are likeliest, as Elo about 1000, by minorisation (Hunter 2004).

    P(first wins) = p / (p + q); what lies between a win and a loss counts as so much of each. `prior`: so many drawn
    games of everybody against a player of 1000, which keeps who never lost finite; with 0 the mean is put at 1000, and
    all must have met, won and lost. `counts_G`: how often each game counts.
    """
    table = np.asarray(games, np.float64).reshape(-1, 3)
    one_G, other_G, won_G = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2]
    count_G = np.ones(len(table)) if counts_G is None else counts_G
    won_P = np.bincount(one_G, won_G * count_G, players) + np.bincount(other_G, (1 - won_G) * count_G, players)
    strength_P = np.ones(players)
    for _ in range(rounds):
        share_G = count_G / (strength_P[one_G] + strength_P[other_G])
        met_P = np.bincount(one_G, share_G, players) + np.bincount(other_G, share_G, players)
        below_P = met_P + prior / (strength_P + 1)
        new_P = np.where(below_P > 0, (won_P + prior / 2) / np.where(below_P > 0, below_P, 1), strength_P)
        new_P = np.maximum(new_P, 1e-12)
        if not prior:
            new_P /= math.exp(float(np.log(new_P).mean()))
        moved = float(np.abs(np.log(new_P) - np.log(strength_P)).max(initial=0))
        strength_P = new_P
        if moved < close:
            break
    made: Ratings = START + SCALE * np.log(strength_P)
    return made


def intervals(games: Sequence[Game], players: int, seed: int, level: float = 0.95) -> tuple[Ratings, Ratings]:
    """Between which ratings each player lies, by drawing the games anew, with putting back."""
    chance = np.random.default_rng(seed)
    table = np.asarray(games, np.float64).reshape(-1, 3)
    if not len(table):
        return np.full(players, START), np.full(players, START)
    found_BP = np.stack(
        [
            bradley_terry(table, players, rounds=200, close=1e-4, counts_G=counts_G.astype(np.float64))
            for counts_G in chance.multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES)
        ]
    )
    low_P, high_P = np.quantile(found_BP, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low_P, high_P


def swiss(ratings: Ratings, met: set[tuple[int, int]], order: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Whom to let play next: neighbours in strength that have not met. One may be left over. `order`: who comes first
    of those that are as strong."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    waiting = np.lexsort((place, -ratings)).tolist()
    pairs = []
    while waiting:
        one = waiting.pop(0)
        free = (n for n, other in enumerate(waiting) if (min(one, other), max(one, other)) not in met)
        found = next(free, None)
        if found is not None:
            pairs.append((one, waiting.pop(found)))
    return pairs


__all__ = ["Game", "bradley_terry", "intervals", "swiss"]
