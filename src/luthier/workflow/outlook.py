"""`luthier curate --try N`: what the whole set would take, by what some of its rows took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.data.curation.calls import Spent
from luthier.data.curation.chain import Curated
from luthier.data.curation.chunks import Placed
from luthier.data.reading.cutting import counting
from luthier.data.reading.feeds import Feed
from luthier.data.steps.tools import Budget
from luthier.data.tally import StepTally, number
from luthier.recipe import Source as Entry

FEW = 2000
"""Rows in whose time a start shows."""


@dataclass(frozen=True)
class Tried:
    """What was tried: of each source the first rows."""

    made: Curated
    feeds: Sequence[Feed]
    entries: Sequence[Entry]
    """As the recipe has them, whose limits still hold."""
    steps: Sequence[Placed]
    """Of the sources and of all."""
    spent: Mapping[str, Spent]
    processes: int

    @property
    def counts(self) -> list[tuple[int, int | None]]:
        """Of each source how many rows were tried, and about how many there are."""
        tried = [self.made.ledger.sources[one.name].read for one in self.feeds]
        there = [
            _limited(counting.rows(one.parts), entry.limit, read)
            for one, entry, read in zip(self.feeds, self.entries, tried, strict=True)
        ]
        return list(zip(tried, there, strict=True))


def _limited(count: int | None, limit: int | None, read: int) -> int | None:
    if count is None:
        return limit
    return max(read, count if limit is None else min(count, limit))


def outlook(tried: Tried) -> Iterator[str]:
    """Lines for the screen: how long the whole would take, and what would be asked and paid for."""
    counts = tried.counts
    read = sum(count for count, _ in counts)
    unknown = [one.name for one, (_, there) in zip(tried.feeds, counts, strict=True) if there is None]
    if not read:
        return
    if unknown:
        yield f"how many rows {', '.join(unknown)} has is known when it is read: of 1,000 rows"
    whole = 1000 if unknown else sum(there or 0 for _, there in counts)
    if whole <= read and not unknown:
        yield f"these were all rows ({read:,})"
        return
    shares = [whole / read if unknown else (there or 0) / max(count, 1) for count, there in counts]
    wants = {one.at for one in tried.steps if one.step.wants}
    alone = together = 0.0
    for tally in tried.made.ledger.steps:
        times = _times(tally, shares, whole / read)
        if tally.at in wants:
            alone += tally.wall * times
        else:
            together += tally.seconds * times
    together += _rest(tried.made) * whole / read
    processes = max(tried.processes, 1)
    how = f" in {processes} processes" if processes > 1 else ""
    few = "" if read >= FEW else ", rather less: of so few rows the start is a large part"
    told = f"all {number(whole)} (about) would take" if not unknown else "they would take"
    yield f"{read:,} tried; {told} {clock(together / processes + alone)}{how}{few}"
    for tally in tried.made.ledger.steps:
        spent = tried.spent.get(tally.name)
        if spent is not None and tally.at in wants:
            yield _asked(tally, spent, _times(tally, shares, whole / read), _budget(tried.steps, tally.at))


def _times(tally: StepTally, shares: Sequence[float], usual: float) -> float:
    """How many times as many rows the step would see: one of a source sees that alone."""
    parts = tally.at.split(".")
    return shares[int(parts[1])] if parts[0] == "data" and parts[1].isdigit() else usual


def _rest(made: Curated) -> float:
    """Seconds of reading and writing, all that is no step."""
    steps = sum(tally.seconds for one in made.stages for tally in one.steps)
    measuring = sum(sum(one.told["measuring"].values()) for one in made.stages)
    whole = float(sum(one.told["seconds"] for one in made.stages))
    return max(whole - steps - measuring, 0.0)


def _budget(steps: Sequence[Placed], at: str) -> Budget | None:
    """The budget of a step, with the prices of its engine."""
    step: Any = next(one.step for one in steps if one.at == at)
    budget: Budget | None = getattr(step, "budget", None)
    return None if budget is None else budget.priced(getattr(step, "engine", ""))


def _asked(tally: StepTally, spent: Spent, times: float, budget: Budget | None) -> str:
    calls, read, written = (round(count * times) for count in (spent.calls, spent.read, spent.written))
    line = f"{tally.at} {tally.name}: about {number(calls, 'call')}, {read:,} tokens read, {written:,} generated"
    if budget is None:
        return line
    cost = budget.cost(read, written)
    line += f", {cost:,.4g} in money" if budget.price is not None else ""
    most = ((budget.calls, calls), (budget.tokens, written), (budget.money, cost))
    over = [f"{limit:,}" for limit, wanted in most if limit is not None and wanted > limit]
    return line + (f"; its budget of {', '.join(over)} would end it before" if over else "")


def clock(seconds: float) -> str:
    """A span of time in words: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


__all__ = ["Tried", "clock", "outlook"]
