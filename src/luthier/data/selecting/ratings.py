"""Who is how strong, from games of two: Bradley-Terry (1952), told as Elo, and whom to let play next.

Shape suffixes: P = players, G = games, B = resamples of the games.
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
TOGETHER = 50
"""Resamples that are fitted at once."""
ROUNDS = 2000
Ratings = NDArray[np.float64]
Game = tuple[int, int, float]
"""Two players, and what the first one got: 1, 0, or something between."""


def bradley_terry(games: Sequence[Game], players: int, *, prior: float = 1.0) -> Ratings:
    """The strengths under which these results are likeliest, as Elo about 1000, by minorisation (Hunter 2004).

    P(first wins) = p / (p + q); what lies between a win and a loss counts as so much of each. `prior`: so many drawn
    games of everybody against a player of 1000, which keeps who never lost finite; with 0 the mean is put at 1000, and
    all must have met, won and lost.
    """
    table = np.asarray(games, np.float64).reshape(-1, 3)
    return _fitted(table, np.ones((1, len(table))), players, prior, close=1e-7)[0]


def intervals(games: Sequence[Game], players: int, seed: int, level: float = 0.95) -> tuple[Ratings, Ratings]:
    """Between which ratings each player lies, by drawing the games anew, with putting back."""
    table = np.asarray(games, np.float64).reshape(-1, 3)
    if not len(table):
        return np.full(players, START), np.full(players, START)
    chance = np.random.default_rng(seed)
    count_BG = chance.multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES).astype(np.float64)
    found_BP = np.concatenate(
        [
            _fitted(table, count_BG[start : start + TOGETHER], players, 1.0, close=1e-3)
            for start in range(0, RESAMPLES, TOGETHER)
        ]
    )
    low_P, high_P = np.quantile(found_BP, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low_P, high_P


def _fitted(
    table: NDArray[np.float64], count_BG: NDArray[np.float64], players: int, prior: float, close: float
) -> NDArray[np.float64]:
    """Elo of each player, B × P, where each game counts as often as `count_BG` says."""
    resamples = len(count_BG)
    first_BG, second_BG = (
        (np.arange(resamples)[:, None] * players + table[:, side].astype(np.int64)).ravel() for side in (0, 1)
    )

    def summed(one_BG: NDArray[np.float64], other_BG: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a game gives its two players, added up for each of them."""
        size = resamples * players
        return np.asarray(np.bincount(first_BG, one_BG, size) + np.bincount(second_BG, other_BG, size), np.float64)

    counted = count_BG.ravel()
    won_BG = np.tile(table[:, 2], resamples)
    won_P = summed(won_BG * counted, (1 - won_BG) * counted) + prior / 2
    strength_P = np.ones(resamples * players)
    for _ in range(ROUNDS):
        share_BG = counted / (strength_P[first_BG] + strength_P[second_BG])
        below_P = summed(share_BG, share_BG) + prior / (strength_P + 1)
        new_P = np.maximum(np.divide(won_P, below_P, out=strength_P.copy(), where=below_P > 0), 1e-12)
        if not prior:
            logs_BP = np.log(new_P).reshape(resamples, players)
            new_P = np.exp(logs_BP - logs_BP.mean(1, keepdims=True)).ravel()
        moved = float(np.abs(np.log(new_P / strength_P)).max(initial=0))
        strength_P = new_P
        if moved < close:
            break
    made: NDArray[np.float64] = START + SCALE * np.log(strength_P).reshape(resamples, players)
    return made


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
