"""A blind comparison opened: who won, how sure that is, and how far the raters agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from luthier.errors import LuthierError
from luthier.evaluate.blind import sheets
from luthier.evaluate.blind.folder import Blind, Said
from luthier.evaluate.comparison import p_value
from luthier.evaluate.intervals.bootstrap import of_mean
from luthier.evaluate.intervals.rates import Estimate, mcnemar, wilson
from luthier.evaluate.ratings import Agreement, Controlled, Games, Rating, controlled, needed, provable, rated
from luthier.evaluate.ratings.agreement import pairwise

Voted = tuple[str, str, str, float, int]
"""Item, the two models in the order of their names, the first one's share of the win, how much longer its answer is."""


@dataclass(frozen=True)
class Pair:
    """Two models, over the items in which they met."""

    one: str
    other: str
    items: int
    wins: int
    losses: int
    ties: int
    """Items: what most raters of each say."""
    p: float
    """The sign test over items that one of them won."""
    rate: Estimate
    """Over all verdicts, items drawn anew."""
    lengths: Controlled

    @property
    def verdict(self) -> str:
        """In words."""
        decided = self.wins + self.losses
        if self.p < 0.05:
            better = self.one if self.wins > self.losses else self.other
            most, few = max(self.wins, self.losses), min(self.wins, self.losses)
            return f"{better} is better ({most} to {few}, {p_value(self.p)})"
        least = provable(decided)
        wanted = "no split of so few could show it" if least is None else f"it takes {least} of {decided}"
        return f"no difference is shown ({self.wins} to {self.losses}, {p_value(self.p)}; {wanted})"

    def text(self) -> str:
        """On one line."""
        return (
            f"{self.one} against {self.other}: wins {_share(self.rate)}, at equal lengths {_share(self.lengths.rate)}; "
            f"{self.verdict}"
        )


@dataclass(frozen=True)
class Opened:
    """What came of it."""

    items: int
    raters: Mapping[str, int]
    """How many items each has judged."""
    pairs: Sequence[Pair]
    ratings: Mapping[str, Rating] | None
    """Elo beside the first model; None where the models fall into parts that never met."""
    agreement: Mapping[tuple[str, str], Agreement]
    left: Estimate | None
    """The share of verdicts for a side that named the left one, or the one called 1."""

    def lines(self) -> list[str]:
        """For the terminal."""
        told = [f"{name} has judged {count} of {self.items} items" for name, count in self.raters.items()]
        told += [pair.text() for pair in self.pairs]
        if self.ratings is not None and len(self.ratings) > 2:
            told += [f"Elo of {name}: {_points(rating.elo)}" for name, rating in self.ratings.items()]
        for (one, other), same in self.agreement.items():
            kappa = (
                "κ is not defined: both said one thing throughout" if same.kappa is None else f"κ {_two(same.kappa)}"
            )
            told.append(f"{one} and {other} agree on {_share(same.same)} of {same.rows} items, {kappa}")
        if self.left is not None:
            told.append(f"{_share(self.left)} of the verdicts for a side named the one at the left")
        decided = sum(pair.wins + pair.losses for pair in self.pairs)
        told.append(
            f"a true 60 % is shown four times out of five by {needed(0.6)} items won by either, a true 55 % by "
            f"{needed(0.55)}; here are {decided}"
        )
        return told

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON knows it."""
        return {
            "items": self.items,
            "raters": dict(self.raters),
            "pairs": [{**asdict(pair), "verdict": pair.verdict} for pair in self.pairs],
            "ratings": None if self.ratings is None else {name: asdict(one) for name, one in self.ratings.items()},
            "agreement": [{"raters": both, **asdict(same)} for both, same in self.agreement.items()],
            "left": None if self.left is None else asdict(self.left),
        }


def opened(blind: Blind, seed: int = 0) -> Opened:
    """Break the seal. Raises LuthierError where nobody has judged, a rater is there twice, or the files were
    changed."""
    page, paper = blind.said(), sheets.read(blind)
    twice = sorted(set(page) & set(paper))
    if twice:
        raise LuthierError(
            f"{twice[0]!r} has judged on the page and on a sheet", where=str(blind.sheets), fix="rename the sheet"
        )
    raters: dict[str, dict[str, Said]] = {**page, **paper}
    if not any(raters.values()):
        raise LuthierError("nobody has judged yet", where=str(blind.folder), fix="open the page, or fill in a sheet")
    votes = [_vote(blind, item, said) for each in raters.values() for item, said in each.items()]
    games = Games()
    for item, one, other, won, _ in votes:
        games.add(one, other, won, item)
    names = sorted({name for pair in blind.key.values() for name in pair})
    met = {(one, other): [v for v in votes if v[1:3] == (one, other)] for one, other in combinations(names, 2)}
    try:
        ratings = rated(games, games.models[0], seed)
    except LuthierError:  # parts that never met have no common scale; their pairs are told all the same
        ratings = None
    return Opened(
        items=len(blind.items),
        raters={name: len(each) for name, each in raters.items()},
        pairs=[_pair(one, other, some, seed) for (one, other), some in met.items() if some],
        ratings=ratings,
        agreement=pairwise(raters, seed),
        left=_left(blind, page),
    )


def _vote(blind: Blind, item: str, said: Said) -> Voted:
    (x, y), dealt = blind.key[item], blind.items[item]
    won = {"x": 1.0, "y": 0.0, "tie": 0.5}[said]
    longer = len(dealt.x) - len(dealt.y)
    return (item, x, y, won, longer) if x < y else (item, y, x, 1 - won, -longer)


def _pair(one: str, other: str, votes: Sequence[Voted], seed: int) -> Pair:
    items, place_N = np.unique([vote[0] for vote in votes], return_inverse=True)
    won_N = np.array([vote[3] for vote in votes])
    sums_C, counts_C = np.bincount(place_N, won_N).astype(float), np.bincount(place_N).astype(float)
    tally = Counter(np.sign(sums_C / counts_C - 0.5).astype(int).tolist())
    value = float(won_N.mean())
    if len(items) < 2:
        rate = Estimate(value)
    elif len(items) == len(votes) and not (won_N == 0.5).any():
        rate = Estimate(value, *wilson(float(won_N.sum()), len(votes)))
    else:
        rate = of_mean(sums_C, counts_C, (0.0, 1.0), seed)
    return Pair(
        one, other, len(items), tally[1], tally[-1], tally[0],
        p=mcnemar(tally[1], tally[-1]),
        rate=rate,
        lengths=controlled(won_N, np.array([float(vote[4]) for vote in votes]), seed),
    )  # fmt: skip


def _left(blind: Blind, page: Mapping[str, Mapping[str, Said]]) -> Estimate | None:
    sides = [
        said == blind.left(rater, item) for rater, each in page.items() for item, said in each.items() if said != "tie"
    ]
    return Estimate(sum(sides) / len(sides), *wilson(sum(sides), len(sides))) if sides else None


def _share(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return f"{one.value:.1%}"
    return f"{one.value:.1%} ({100 * one.low:.1f}–{100 * one.high:.1f} %)"


def _points(one: Estimate) -> str:
    between = "" if one.low is None or one.high is None else f" ({one.low:+.0f} to {one.high:+.0f})"
    return f"{one.value:+.0f}{between}"


def _two(one: Estimate) -> str:
    between = "" if one.low is None or one.high is None else f" ({one.low:.2f} to {one.high:.2f})"
    return f"{one.value:.2f}{between}"
