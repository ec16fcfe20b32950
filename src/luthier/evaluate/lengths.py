"""How long users talk with each model: mean conversation length (arXiv:2303.06135), with intervals over users.

Users are resampled, not conversations: those of one user are alike, and as if they were not the interval would be too
narrow. All models share the resamples, so that a user who talked with two of them counts in both at once.

Shape suffixes: U = users, R = resamples, K = 2: length and conversations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.evaluate.intervals import Estimate, interval, resamples

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Length:
    """Mean conversation length with one model."""

    users: int
    conversations: int
    mean: Estimate
    difference: Estimate | None
    """To the baseline; None of the baseline itself."""


@dataclass
class Lengths:
    """Lengths of conversations, by model and user."""

    sums: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Model → user → [length, conversations]."""
    unwatched: int = 0
    """Conversations that began too late in the log to count."""

    def add(self, model: str, user: str, length: int) -> None:
        """One more conversation."""
        sums = self.sums.setdefault(model, {}).setdefault(user, [0, 0])
        sums[0], sums[1] = sums[0] + length, sums[1] + 1

    @property
    def crossing(self) -> int:
        """Users who talked with more than one model."""
        models = Counter(user for of_model in self.sums.values() for user in of_model)
        return sum(count > 1 for count in models.values())

    def compared(self, baseline: str | None = None, seed: int = 0) -> dict[str, Length]:
        """The length of each model, the baseline first (unless it is named, the first by name).

        Raises LuthierError for a baseline that the log does not have.
        """
        names = sorted(self.sums)
        if baseline is not None and baseline not in names:
            raise LuthierError(
                f"no conversation that counts was with {baseline!r}",
                where="baseline",
                fix=f"the models are {', '.join(names) or 'none'}",
            )
        first = baseline if baseline is not None else next(iter(names), None)
        names.sort(key=lambda name: name != first)
        users = sorted({user for of_model in self.sums.values() for user in of_model})
        tables = {name: np.array([self.sums[name].get(user, (0, 0)) for user in users], np.float64) for name in names}
        drawn = _drawn(tables, len(users), seed)
        means = {name: float(sums_UK[:, 0].sum() / sums_UK[:, 1].sum()) for name, sums_UK in tables.items()}
        return {
            name: Length(
                len(self.sums[name]),
                int(tables[name][:, 1].sum()),
                self._estimate(means[name], drawn[name], name),
                None
                if name == first
                else self._estimate(means[name] - means[str(first)], drawn[name] - drawn[str(first)], name, str(first)),
            )
            for name in names
        }

    def _estimate(self, value: float, values_R: NDArray[np.float64], *names: str) -> Estimate:
        """With its interval, unless one of these models had a single user."""
        known_R = values_R[np.isfinite(values_R)]  # a resample may hold no user of a model that few talked with
        if any(len(self.sums[name]) < 2 for name in names) or not len(known_R):
            return Estimate(value)
        return interval(value, known_R, min(len(self.sums[name]) for name in names))


def _drawn(tables: Mapping[str, NDArray[np.float64]], users: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """The mean length of each model in each resample of users."""
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in tables}
    for counts_RU in resamples(users, seed) if users > 1 else ():
        for name, sums_UK in tables.items():
            sums_RK = counts_RU @ sums_UK
            with np.errstate(invalid="ignore"):
                found[name].append(sums_RK[:, 0] / sums_RK[:, 1])
    return {name: np.concatenate(blocks) if blocks else np.zeros(0) for name, blocks in found.items()}


def table(found: Mapping[str, Length], count: str) -> Table:
    """For the screen."""
    from rich.table import Table

    shown = Table(title=f"Mean conversation length, in {count}", title_justify="left", header_style="bold")
    shown.add_column("model")
    for heading in ("users", "conversations", "length", "difference to the first"):
        shown.add_column(heading, justify="right")
    for name, one in found.items():
        difference = "" if one.difference is None else _spelt(one.difference, "+")
        shown.add_row(name, f"{one.users:,}", f"{one.conversations:,}", _spelt(one.mean), difference)
    return shown


def _spelt(one: Estimate, sign: str = "") -> str:
    value = f"{one.value:{sign}.2f}"
    return value if one.low is None else f"{value}  {one.low:{sign}.2f} to {one.high:{sign}.2f}"


def lines(lengths: Lengths) -> Iterator[str]:
    """What is to be known beside the table."""
    if lengths.unwatched:
        yield f"{lengths.unwatched:,} conversations do not count: the log ends too early to know how long they were"
    if lengths.crossing:
        yield f"users who talked with more than one model: {lengths.crossing:,}"


__all__ = ["Length", "Lengths", "lines", "table"]
