"""A judge held against people: does it choose what they chose?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.errors import LuthierError
from luthier.evaluate.intervals.rates import Estimate, wilson
from luthier.evaluate.judging.answers import question
from luthier.evaluate.judging.bouts import Bout
from luthier.evaluate.judging.contest import Meeting, held, placed
from luthier.evaluate.ratings import Agreement, Bias, agreement, bias
from luthier.scorers.metric import Metric, text
from luthier.types import Example


@dataclass(frozen=True)
class Held:
    """The judge's verdicts beside those of people."""

    rows: int
    right: Estimate | None
    """Of the verdicts for a side, the share that chose what people chose."""
    ties: int
    missing: int
    agreement: Agreement | None
    """The same with ties as a verdict of their own: the share alike, and κ."""
    bias: Bias

    def lines(self) -> list[str]:
        """For the terminal."""
        told = []
        if self.right is not None:
            low, high = self.right.low or 0.0, self.right.high or 0.0
            told.append(
                f"the judge chooses what people chose in {self.right.value:.1%} of its verdicts for a side "
                f"({100 * low:.1f}–{100 * high:.1f} %); chance is 50 %"
            )
        told.append(f"{self.rows} rows: {self.ties} ties (or another verdict in each order), {self.missing} unreadable")
        if self.agreement is not None and self.agreement.kappa is not None:
            kappa = self.agreement.kappa
            between = "" if kappa.low is None or kappa.high is None else f" ({kappa.low:.2f} to {kappa.high:.2f})"
            told.append(f"Cohen's κ {kappa.value:.2f}{between}: 0 is chance, 1 is always alike")
        if self.bias.unusable:
            told.append(f"this judge is unusable: {self.bias.unusable}")
        for what, share in (("same in both orders", self.bias.consistent), ("names the first", self.bias.first)):
            if share is not None:
                told.append(f"{what}: {share.value:.0%}")
        return told

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON knows it."""
        return {**asdict(self), "unusable": self.bias.unusable}


def against_people(by: Metric, rows: Sequence[Example], seed: int = 0) -> Held:
    """The best and the worst response of each row (`chosen` and `rejected`) put to the judge. Raises LuthierError where
    no row has responses of which people liked one better."""
    met = [found for place, row in enumerate(rows) if (found := _meeting(place, row)) is not None]
    if not met:
        raise LuthierError(
            "no row says which of its responses people liked better",
            fix="give rows with `chosen` and `rejected`, or several responses with their rewards",
        )
    by.check()
    bouts = held(by, met)
    asked = [bout for bout in bouts if not bout.same]
    said = {bout.question: _label(bout) for bout in bouts if bout.won is not None}
    chosen = {bout.question: _chosen(bout) for bout in bouts}
    decided = [name for name, label in said.items() if label != "tie"]
    right = sum(said[name] == chosen[name] for name in decided)
    return Held(
        rows=len(bouts),
        right=Estimate(right / len(decided), *wilson(right, len(decided))) if decided else None,
        ties=len(said) - len(decided),
        missing=len(bouts) - len(said),
        agreement=agreement(said, chosen, seed),
        bias=bias([bout.orders for bout in asked], [bout.longer for bout in asked], placed=placed(by)),
    )


def _meeting(place: int, row: Example) -> Meeting | None:
    """The response that people like best against the one they like least, which is called a or b by a hash of both: a
    label that were always the same could not agree by more than chance."""
    known = [(response.reward, text(response)) for response in row.responses if response.reward is not None]
    if len(known) < 2:
        return None
    best, worst = max(known, key=lambda one: one[0]), min(known, key=lambda one: one[0])
    if best[0] == worst[0] or best[1] == worst[1]:
        return None
    mixed = hashlib.blake2b(f"{place}\0{best[1]}".encode("utf-8", "backslashreplace"), digest_size=1).digest()[0]
    example = Example(row.prompt, source=row.source)
    sides = ("chosen", best[1]), ("rejected", worst[1])
    one, other = sides if mixed & 1 else sides[::-1]
    return Meeting(f"{place} {question(row)}", example, one, other)


def _label(bout: Bout) -> str:
    return "tie" if bout.won == 0.5 else "a" if bout.won == 1 else "b"


def _chosen(bout: Bout) -> str:
    return "a" if bout.one == "chosen" else "b"
