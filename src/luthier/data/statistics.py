"""What a set of judged responses holds: pairs, labels, lengths; and what of it would teach something unmeant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOOD = 0.5
"""A response whose score is above it is good, any other bad."""
LENGTH_BIAS = 1.3
"""Better responses that are so many times longer or shorter than worse ones are called out."""


@dataclass
class PreferenceStatistics:
    """Counts of judged responses, and mean lengths in scored tokens."""

    pairs: int = 0
    """Every two responses to one prompt whose scores differ."""
    good: int = 0
    bad: int = 0
    """Labels of the examples that have one scored response."""
    better_tokens: float = 0.0
    worse_tokens: float = 0.0
    """Mean scored tokens: over pairs where there are any, else over good and bad responses."""
    right_steps: int = 0
    neutral_steps: int = 0
    wrong_steps: int = 0
    """Steps with a score above 0, of 0, and below 0."""

    @classmethod
    def of(
        cls,
        responses: NDArray[np.int32],
        scores: NDArray[np.float32],
        trained: NDArray[np.int32],
        steps: NDArray[np.float32],
    ) -> PreferenceStatistics | None:
        """Count examples of so many `responses`; `scores` and `trained` (scored tokens) lie one a response, example
        after example, `steps` are the scores of all steps. None when nothing is judged."""
        if np.isnan(scores).all() and not len(steps):
            return None
        made = cls(
            right_steps=int((steps > 0).sum()),
            neutral_steps=int((steps == 0).sum()),
            wrong_steps=int((steps < 0).sum()),
        )
        firsts = np.concatenate([[0], np.cumsum(responses, dtype=np.int64)])[:-1]
        better, worse = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for count in np.unique(responses[responses > 1]):
            starts = firsts[responses == count]
            for i in range(count):
                for j in range(i + 1, count):
                    ahead = scores[starts + i] - scores[starts + j]
                    better += [starts[ahead > 0] + i, starts[ahead < 0] + j]
                    worse += [starts[ahead > 0] + j, starts[ahead < 0] + i]
        above, below = np.concatenate(better), np.concatenate(worse)
        made.pairs = len(above)
        alone = firsts[responses == 1]
        alone = alone[~np.isnan(scores[alone])]
        good, bad = alone[scores[alone] > GOOD], alone[scores[alone] <= GOOD]
        made.good, made.bad = len(good), len(bad)
        if not made.pairs:
            above, below = good, bad
        if len(above) and len(below):
            made.better_tokens = round(float(trained[above].mean()), 1)
            made.worse_tokens = round(float(trained[below].mean()), 1)
        return made

    @property
    def length_ratio(self) -> float | None:
        """Mean length of better responses over that of worse ones; None where there are not both."""
        return self.better_tokens / self.worse_tokens if self.better_tokens and self.worse_tokens else None

    def to_json(self) -> dict[str, Any]:
        """What was counted, as JSON types; of what there is none, nothing."""
        return {name: count for name, count in vars(self).items() if count}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PreferenceStatistics:
        """What `to_json` wrote."""
        return cls(**content)

    def lines(self) -> list[tuple[str, bool]]:
        """For the screen: each line, and whether it is a warning."""
        lines = []
        if self.pairs:
            lines.append((f"{self.pairs:,} pairs of a better and a worse response", False))
        if self.good or self.bad:
            share = self.good / (self.good + self.bad)
            lines.append((f"labels: {self.good:,} good, {self.bad:,} bad ({share:.0%} good)", False))
        if self.right_steps or self.neutral_steps or self.wrong_steps:
            counts = (
                f"{self.right_steps:,} right (above 0), {self.neutral_steps:,} neutral (0), "
                f"{self.wrong_steps:,} wrong (below 0)"
            )
            lines.append((f"steps: {counts}", False))
            if self.neutral_steps and not self.wrong_steps:
                hint = "no step is below 0: where 0 means wrong, set objective.process_reward.neutral=negative"
                lines.append((hint, True))
        ratio = self.length_ratio
        if ratio is not None:
            lengths = f"scored tokens: better responses {self.better_tokens:,}, worse {self.worse_tokens:,} on average"
            lines.append((lengths, False))
            if not 1 / LENGTH_BIAS <= ratio <= LENGTH_BIAS:
                factor, how = (ratio, "longer") if ratio > 1 else (1 / ratio, "shorter")
                lines.append(
                    (f"length bias: better responses are {factor:.2f} times {how}; length alone may be learnt", True)
                )
        return lines


__all__ = ["GOOD", "PreferenceStatistics"]
