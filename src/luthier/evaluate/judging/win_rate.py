"""How often one model's answers win against another's: raw and at equal lengths, with the judge's bias beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from luthier.errors import LuthierError
from luthier.evaluate.comparison import p_value
from luthier.evaluate.intervals.bootstrap import of_mean
from luthier.evaluate.intervals.rates import Estimate, mcnemar, wilson
from luthier.evaluate.judging.bouts import Bout
from luthier.evaluate.ratings import Bias, Controlled, bias, controlled, needed, provable


@dataclass(frozen=True)
class WinRate:
    """`one` against `other` over the rows that could be judged."""

    one: str
    other: str
    wins: int
    losses: int
    ties: int
    missing: int
    """Rows without a verdict, because the judge could not be read in both orders."""
    rate: Estimate
    """Wins and half the ties over all judged rows."""
    p: float
    """How likely so uneven a split of wins and losses is by chance (the sign test)."""
    lengths: Controlled
    bias: Bias
    note: str | None = None
    """What else should be known of the judge."""

    @property
    def rows(self) -> int:
        """Judged rows."""
        return self.wins + self.losses + self.ties

    @property
    def winner(self) -> str | None:
        """Who is better, if that is sure."""
        if self.bias.unusable or self.p >= 0.05:
            return None
        return self.one if self.wins > self.losses else self.other

    @property
    def verdict(self) -> str:
        """In words: who wins, or why nobody is named."""
        if self.bias.unusable:
            return f"no winner is named: {self.bias.unusable}"
        if self.winner is not None:
            most, few = max(self.wins, self.losses), min(self.wins, self.losses)
            return f"{self.winner} is better ({most} to {few}, {p_value(self.p)})"
        decided = self.wins + self.losses
        least = provable(decided)
        wanted = "no split of so few could show one" if least is None else f"it takes {least} of {decided}"
        return f"no difference is shown ({self.wins} to {self.losses}, {p_value(self.p)}; {wanted})"

    def lines(self) -> list[str]:
        """What stands under the rate: the judge's doings, and what so many rows show."""
        told = [self.verdict]
        if self.note:
            told.append(self.note)
        known = self.bias
        for what, share in (
            ("of its answers could be read", known.read),
            ("of the comparisons came out the same in both orders", known.consistent),
            ("of its verdicts named the answer shown first", known.first),
            ("of the wins went to the longer answer", known.longer),
        ):
            if share is not None:
                told.append(f"judge: {share.value:.0%} {what} ({_between(share)})")
        if self.lengths.one_sided:
            told.append(
                "one of them is nearly always the longer, so the rate at equal lengths is hardly more than a guess"
            )
        if self.missing:
            told.append(f"{self.missing} of {self.rows + self.missing} rows have no verdict, and count nowhere")
        told.append(
            f"to show a true 60 % four times out of five takes {needed(0.6)} verdicts for a side, "
            f"a true 55 % {needed(0.55)}; here are {self.wins + self.losses}"
        )
        return told

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON knows it."""
        return {**asdict(self), "rows": self.rows, "winner": self.winner, "verdict": self.verdict}

    def text(self) -> str:
        """On one line."""
        low, even = self.rate, self.lengths.rate
        return (
            f"{self.one} against {self.other}: wins {low.value:.1%} ({_between(low)}), at equal lengths "
            f"{even.value:.1%} ({_between(even)}); {self.wins} won, {self.losses} lost, {self.ties} ties"
        )


def summed(bouts: Sequence[Bout], *, placed: bool = True, seed: int = 0, note: str | None = None) -> WinRate:
    """All bouts of the same two, whichever of them is told first. Raises LuthierError where none could be judged, or
    they are of others."""
    if not bouts:
        raise LuthierError("nobody met, so there is no win rate", fix="give prompts that both have answered")
    one, other = bouts[0].one, bouts[0].other
    turned = [_turned(bout, one, other) for bout in bouts]
    judged = [(bout, won) for bout in turned if (won := bout.won) is not None]
    asked = [bout for bout in turned if not bout.same]
    known = bias([bout.orders for bout in asked], [bout.longer for bout in asked], placed=placed)
    if not judged:
        raise LuthierError(
            f"none of the {len(bouts)} comparisons of {one} and {other} could be read",
            fix="take another judge, or reads: tokens for one that does not keep to a form",
        )
    won_N = np.array([won for _, won in judged])
    wins, losses = int((won_N == 1).sum()), int((won_N == 0).sum())
    return WinRate(
        one, other, wins, losses, len(judged) - wins - losses, len(bouts) - len(judged),
        rate=_rate(judged, seed),
        p=mcnemar(wins, losses),
        lengths=controlled(won_N, np.array([float(bout.longer) for bout, _ in judged]), seed),
        bias=known,
        note=note,
    )  # fmt: skip


def _turned(bout: Bout, one: str, other: str) -> Bout:
    if (bout.one, bout.other) == (one, other):
        return bout
    if (bout.one, bout.other) != (other, one):
        what = f"a comparison of {bout.one} and {bout.other} among those of {one} and {other}"
        raise LuthierError(what, fix="sum up the comparisons of each two models by themselves")
    first, second = bout.orders
    orders = (None if second is None else 1 - second, None if first is None else 1 - first)
    return Bout(bout.question, one, other, orders, -bout.longer, bout.same)


def _rate(judged: Sequence[tuple[Bout, float]], seed: int) -> Estimate:
    """Wilson's where nobody tied and each question came once; else rows (or questions) are drawn anew."""
    won_N = np.array([won for _, won in judged])
    questions, place_N = np.unique([bout.question for bout, _ in judged], return_inverse=True)
    value = float(won_N.mean())
    if len(questions) < 2:
        return Estimate(value)
    if len(questions) == len(won_N) and not (won_N == 0.5).any():
        return Estimate(value, *wilson(float(won_N.sum()), len(won_N)))
    sums_C, counts_C = np.bincount(place_N, won_N).astype(float), np.bincount(place_N).astype(float)
    return of_mean(sums_C, counts_C, (0.0, 1.0), seed)


def _between(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f} %"


__all__ = ["WinRate", "summed"]
