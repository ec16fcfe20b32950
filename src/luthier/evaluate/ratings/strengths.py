"""Strengths of models out of who beat whom (Bradley and Terry 1952), in Elo's numbers.

P(i beats j) = 1 / (1 + e^(θⱼ − θᵢ)); a tie is half a win for each. Games of the same two are counted together before
anything is fitted, so ten thousand games cost what two models cost. A ridge of almost nothing keeps finite a model that
has won all its games.

Shape suffixes: M = models, P = pairs of models that met, Q = questions, R = resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.evaluate.intervals.bootstrap import interval, resampled
from luthier.evaluate.intervals.rates import Estimate
from luthier.evaluate.ratings.logistic import fitted, sigmoid

Floats = NDArray[np.float64]
SCALE = 400 / math.log(10)
"""Elo's points of one unit of θ: 400 points are ten to one."""
RIDGE = 1e-4


@dataclass
class Games:
    """Who met whom over which question, and what share of the win the first one had."""

    played: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)
    """(first, second), in the order of their names → question → wins of the first, wins of the second."""

    def add(self, one: str, other: str, won: float, question: str, times: float = 1.0) -> None:
        """One more game: `won` is 1, 0, or ½ for a tie. Raises LuthierError for a model against itself."""
        if one == other:
            raise LuthierError(f"{one!r} meets itself", fix="give two models")
        if one > other:
            one, other, won = other, one, 1 - won
        score = self.played.setdefault((one, other), {}).setdefault(question, [0.0, 0.0])
        score[0] += won * times
        score[1] += (1 - won) * times

    @property
    def models(self) -> list[str]:
        """All that met anybody."""
        return sorted({name for pair in self.played for name in pair})

    def table(self) -> Mapping[tuple[str, str], tuple[float, float]]:
        """Wins of either side of each pair, all questions together."""
        return {
            pair: (math.fsum(a for a, _ in over.values()), math.fsum(b for _, b in over.values()))
            for pair, over in self.played.items()
        }


@dataclass(frozen=True)
class Rating:
    """One model's strength in Elo's numbers beside the anchor's, which is 0, with its 95 % interval."""

    elo: Estimate
    games: float
    share: float
    """Of them won, ties half."""
    open_end: str | None = None
    """`above` where all games were won, `below` where all were lost: the number is only how far the ridge let it go."""


def strengths(games: Games) -> dict[str, float]:
    """θ of each model, their mean 0. Raises LuthierError where not all have met, directly or through others."""
    names = games.models
    must_be_one(names, games.played)
    design_PM, wins_P, lost_P = _tables(names, games.table())
    played_P = wins_P + lost_P
    theta_M = fitted(design_PM, wins_P / played_P, played_P[None], np.full(len(names), RIDGE))[0]
    return dict(zip(names, (theta_M - theta_M.mean()).tolist(), strict=True))


def elo(games: Games, anchor: str | None = None) -> dict[str, float]:
    """Elo's numbers, `anchor`'s being 0 (none: the mean is)."""
    theta = strengths(games)
    zero = theta[anchor] if anchor is not None else 0.0
    return {name: SCALE * (value - zero) for name, value in theta.items()}


def rated(games: Games, anchor: str, seed: int = 0) -> dict[str, Rating]:
    """All models, the strongest first, with intervals: questions are drawn anew, since what one question shows of one
    pair it shows of all. Raises LuthierError as `strengths` does, and for an anchor that has not played."""
    names = games.models
    if anchor not in names:
        raise LuthierError(f"{anchor!r} is to be 0, and has played no game", fix=f"name one of {', '.join(names)}")
    values = elo(games, anchor)
    resamples = _resampled(games, values, names.index(anchor), seed)
    questions, table = len({one for over in games.played.values() for one in over}), games.table()
    found = {}
    for place, name in enumerate(names):
        mine = [pair if pair[0] == name else (pair[1], pair[0]) for pair in table if name in pair]
        scores = [table[pair] if pair in table else table[pair[1], pair[0]][::-1] for pair in mine]
        won, lost = math.fsum(a for a, _ in scores), math.fsum(b for _, b in scores)
        drawn = resamples[:, place]
        sure = interval(values[name], drawn, questions) if questions > 1 and name != anchor else Estimate(values[name])
        end = "above" if lost == 0 else "below" if won == 0 else None
        found[name] = Rating(sure, won + lost, won / (won + lost), end)
    return dict(sorted(found.items(), key=lambda one: -one[1].elo.value))


def _resampled(games: Games, values: Mapping[str, float], anchor: int, seed: int) -> Floats:
    """Elo's numbers (R, M) of each resample of questions. One in which the models fall apart says nothing, and is left
    out; where most do, what is left would flatter, and all is NaN."""
    names = list(values)
    questions = {one: place for place, one in enumerate(sorted({q for over in games.played.values() for q in over}))}
    wins_QP = np.zeros((len(questions), 2 * len(games.played)))
    for place, over in enumerate(games.played.values()):
        for question, score in over.items():
            wins_QP[questions[question], 2 * place : 2 * place + 2] += score
    if len(questions) < 2:
        return np.full((1, len(names)), np.nan)
    totals_RP = resampled(len(questions), seed, lambda counts_RQ: counts_RQ @ wins_QP)
    design_PM = _design(names, games.played)
    both_PM = np.concatenate([design_PM, -design_PM])  # a row for either side's wins: shares differ by resample
    wins_RP = np.concatenate([totals_RP[:, ::2], totals_RP[:, 1::2]], 1)
    met_RP = totals_RP[:, ::2] + totals_RP[:, 1::2] > 0
    kinds, kind_R = np.unique(met_RP, axis=0, return_inverse=True)
    whole = np.array([len(parts(names, _some(games.played, met))) == 1 for met in kinds])[kind_R.ravel()]
    if whole.mean() < 0.9:
        return np.full((1, len(names)), np.nan)
    start = np.array([values[name] for name in names]) / SCALE
    theta_RM = fitted(both_PM, np.ones(len(both_PM)), wins_RP[whole], np.full(len(names), RIDGE), start)
    return np.asarray(SCALE * (theta_RM - theta_RM[:, [anchor]]))


def _some(pairs: Iterable[tuple[str, str]], met: Sequence[bool]) -> list[tuple[str, str]]:
    return [pair for pair, there in zip(pairs, met, strict=True) if there]


def _design(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> Floats:
    """A row for each pair: θ of the first less θ of the second."""
    place = {name: number for number, name in enumerate(names)}
    rows = []
    for one, other in pairs:
        row = np.zeros(len(names))
        row[place[one]], row[place[other]] = 1.0, -1.0
        rows.append(row)
    return np.array(rows)


def _tables(
    names: Sequence[str], table: Mapping[tuple[str, str], tuple[float, float]]
) -> tuple[Floats, Floats, Floats]:
    scores = np.array(list(table.values()))
    return _design(names, table), scores[:, 0], scores[:, 1]


def parts(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The models by who can be compared with whom, directly or through others, the largest part first."""
    part = {name: {name} for name in names}
    for one, other in pairs:
        if part[one] is not part[other]:
            merged = part[one] | part[other]
            part.update(dict.fromkeys(merged, merged))
    distinct = {id(some): sorted(some) for some in part.values()}
    return sorted(distinct.values(), key=lambda some: (-len(some), some))


def must_be_one(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> None:
    """Raise LuthierError where the models fall into parts that never met."""
    if not names:
        raise LuthierError("there are no games, so nobody is stronger", fix="let models meet first")
    found = parts(names, pairs)
    if len(found) > 1:
        told = "; ".join(", ".join(some) for some in found)
        raise LuthierError(
            f"the models fall into {len(found)} parts that never met, so no number compares them: {told}",
            fix="let one of each part meet one of another, or rate each part by itself",
        )


def expected(one: float, other: float) -> float:
    """The share of games that the first wins, by Elo's numbers."""
    return float(sigmoid(np.array((one - other) / SCALE)))
