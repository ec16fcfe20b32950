"""All that a run folder tells, read once for every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.evaluate.comparison import improved
from luthier.evaluate.curves import Curves, read_curves
from luthier.recipe import Recipe
from luthier.run import Run

TUNED, BASE = "tuned", "base"


@dataclass(frozen=True)
class Evidence:
    """A run, with its recipe resolved. `memory`: bytes that this machine has."""

    run: Run
    recipe: Recipe
    memory: int

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return list(self.run.events())

    @cached_property
    def curves(self) -> Curves:
        return read_curves(self.run)

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        return self.run.read_json(self.run.summary_path)

    @cached_property
    def ledger(self) -> Mapping[str, Any]:
        return self.run.read_json(self.run.ledger_path)

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        return list(self.run.samples())

    def last(self, kind: str) -> Mapping[str, Any] | None:
        """The newest event of a kind."""
        return next((event for event in reversed(self.events) if event["kind"] == kind), None)

    def warned(self, *guards: str) -> Mapping[str, Any] | None:
        """The newest warning of one of these guards."""
        warnings = (event for event in reversed(self.events) if event["kind"] == "warning")
        return next((event for event in warnings if event.get("guard") in guards), None)

    def curve(self, field: str) -> NDArray[np.float64]:
        """The values of a field of the steps, in order."""
        return values(self.curves.steps[field])

    @property
    def loss(self) -> NDArray[np.float64]:
        return self.curve("loss")

    @property
    def steps(self) -> int:
        """So many were to be done."""
        start = self.last("start")
        return int(start["steps"]) if start else 0

    @property
    def ended(self) -> bool:
        return self.last("end") is not None

    @property
    def per_token(self) -> bool:
        """Is the loss a mean over tokens that were given, so that its size means the same for every data set?"""
        return self.recipe.objective.name == "sft"

    @property
    def lr(self) -> float:
        return float(self.recipe.train.lr or 0.0)

    def moved(self, *, better: bool) -> list[str]:
        """Scores of tasks that became better than the base's, or worse, by more than chance: in words."""
        found = []
        for name, task in self.summary.get("scores", {}).items():
            for score in task.get("scores", []):
                change = score.get("difference", {}).get(TUNED)
                if change is None:
                    continue
                low, high = change.get("low"), change.get("high")
                if improved(score.get("higher_is_better", True), low, high, change.get("raised")) is better:
                    base, tuned = (score["systems"][system]["value"] for system in (BASE, TUNED))
                    by = f"{low:+.3g} to {high:+.3g}"
                    found.append(f"{name}, {score['scorer']}: {base:.3g} → {tuned:.3g} (the difference is {by})")
        return found

    def answers(self, system: str = TUNED) -> list[Mapping[str, Any]]:
        """What a system said to the rows of all tasks."""
        return [sample["systems"][system] for sample in self.samples if system in sample["systems"]]


def values(points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Of a curve's points only how high they are."""
    return np.array([value for _, value in points], dtype=np.float64)


def ends(curve: NDArray[np.float64], share: float = 0.2) -> tuple[float, float]:
    """The means of the first and of the last part of a curve."""
    count = max(1, round(len(curve) * share))
    return float(curve[:count].mean()), float(curve[-count:].mean())
