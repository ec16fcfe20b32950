"""Guards: what looks wrong while training, said in time and with what to check.

A loss or gradient that is not a number stops the run before anything is written. A loss that is suspiciously low, or
that does not fall, is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.errors import LuthierError
from luthier.types import Source

MEMORISING_BELOW = 0.2
"""Mean loss per scored token, in nats: the model gives each next token a probability of 82 % or more."""
MEMORISING_STEPS = 10
"""Steps that the mean is taken over."""
FALLING_STEPS = 10
"""Steps in a row in which both rewards are below zero."""
ROWS_NAMED = 8


@dataclass
class Guards:
    """Watches the loss of every step. Its state goes into the checkpoint, so a resumed run warns as the whole one."""

    stall_window: int
    per_token: bool
    """The loss is a mean over scored tokens, so its size means the same for every data set."""
    recent: list[float] = field(default_factory=list)
    memorising: bool = False
    stalled: bool = False
    rewards: list[tuple[float, float]] = field(default_factory=list)
    """Implicit rewards of the better and the worse responses at each step, where the objective has a reference."""
    falling: bool = False
    cut: bool = False

    def observe(self, loss: float, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        """Warnings that step's numbers give rise to: (which guard, what it says). Each is given once a run."""
        longest = max(self.stall_window, MEMORISING_STEPS)
        self.recent = [*self.recent, loss][-longest:]
        warnings = []
        if self.per_token and not self.memorising and len(self.recent) >= MEMORISING_STEPS:
            mean = sum(self.recent[-MEMORISING_STEPS:]) / MEMORISING_STEPS
            if mean < MEMORISING_BELOW:
                self.memorising = True
                warnings.append(("memorising", _memorising(mean)))
        if not self.stalled and len(self.recent) >= self.stall_window > 1:
            window = self.recent[-self.stall_window :]
            half = self.stall_window // 2
            before, after = sum(window[:half]) / half, sum(window[-half:]) / half
            if after >= before:
                self.stalled = True
                warnings.append(("stall", _stalled(self.stall_window, before, after)))
        if not self.cut and metrics.get("mismatched_cut"):
            self.cut = True
            warnings.append(("mismatched", _cut(metrics["mismatched_cut"])))
        return [*warnings, *self._both_fall(metrics)]

    def _both_fall(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        """Preference training lowers the better responses too when it pays: a warning when both have fallen.

        Steps differ in their rows, so what counts is the log-ratio from the reference: the implicit rewards.
        """
        if self.falling or not {"reward_better", "reward_worse", "kl"} <= set(metrics):
            return []
        self.rewards = [*self.rewards, (metrics["reward_better"], metrics["reward_worse"])][-FALLING_STEPS:]
        if len(self.rewards) < FALLING_STEPS or not all(better < 0 and worse < 0 for better, worse in self.rewards):
            return []
        self.falling = True
        better, worse = self.rewards[-1]
        text = (
            f"the model gives better and worse responses both less probability than the reference did (rewards "
            f"{better:.3f} and {worse:.3f} over {FALLING_STEPS} steps): lower train.lr or raise beta, or add a term of "
            "likelihood (`sum` of the objective and sft)"
        )
        return [("falling", text)]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {key: value for key, value in asdict(self).items() if key not in ("stall_window", "per_token")}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state()` gave."""
        self.recent, self.memorising, self.stalled = list(state["recent"]), state["memorising"], state["stalled"]
        self.rewards, self.falling = [tuple(pair) for pair in state.get("rewards", [])], state.get("falling", False)
        self.cut = state.get("cut", False)


def _memorising(mean: float) -> str:
    return (
        f"the scored loss is {mean:.3f} over the last {MEMORISING_STEPS} steps, below {MEMORISING_BELOW}: the model "
        "may be reciting its rows. Compare with the evaluation loss (validate.share); fewer epochs or more rows help"
    )


def _stalled(window: int, before: float, after: float) -> str:
    return (
        f"the loss has not fallen over the last {window} steps ({before:.4f} → {after:.4f}). If it has converged, stop "
        "here; otherwise check the learning rate (train.lr), what is scored (luthier data --show 5) and the data"
    )


def _cut(share: float) -> str:
    return (
        f"{share:.0%} of this step's pairs of one row's prompt with another's response, from which the divergence is "
        "estimated, are longer than train.max_tokens (or than the model's context) and cut at their end; "
        "`mismatched_cut` in events.jsonl counts on"
    )


def not_finite(what: str, step: int, lr: float, rows: Sequence[Source | None], kept: str) -> LuthierError:
    """The error for a loss or gradient that is NaN or infinite, naming step, rows and learning rate."""
    named = ", ".join(str(row) for row in rows[:ROWS_NAMED])
    more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
    return LuthierError(
        f"{what} at step {step} (learning rate {lr:.3g}). Nothing of this step was written; {kept}",
        where=named + more,
        fix="look at these rows; lower train.lr or lengthen train.warmup; try model.dtype=fp32",
    )


def finite(*values: float) -> bool:
    """Are all of these numbers, and none of them infinite?"""
    return all(math.isfinite(value) for value in values)
