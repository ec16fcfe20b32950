"""How far a run is, and how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class FitResult:
    """How a run went. Losses are per unit of the objective (for sft, nats per scored token)."""

    steps: int
    seconds: float
    """Wall-clock of the loop, evaluations and checkpoints included, over all sittings."""
    tokens: int
    """Tokens trained on, padding not counted."""
    tokens_per_s: float
    """While stepping."""
    shared: float
    """Share of those tokens that rows had in common and that were computed once."""
    peak_memory: int
    """Bytes."""
    first_loss: float | None
    last_loss: float | None
    evaluation_loss: float | None
    """Of the weights the run ends with."""
    best_step: int | None
    resumed_from: int | None
    stopped_early: bool


@dataclass
class Progress:
    """How far a run is: all that a checkpoint keeps besides tensors. JSON values only."""

    recipe: str
    data: str
    micro_tokens: int
    checkpointing: bool = False
    base: str | None = None
    """Digest of the base's weights; None in checkpoints of before it was kept."""
    step: int = 0
    tokens: int = 0
    computed: int = 0
    """Tokens that went through the model."""
    seconds: float = 0.0
    stepping: float = 0.0
    peak_memory: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    evaluation_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    worse: int = 0
    """Evaluations since the best one."""
    stopped: bool = False
    since: list[float] = field(default_factory=list)
    """Losses of the steps since the last `step` event."""
    since_tokens: int = 0
    since_seconds: float = 0.0
    metrics: list[dict[str, float]] = field(default_factory=list)
    """What those steps showed of the rows' worth."""
    source: dict[str, Any] = field(default_factory=dict)
    """What the source of the steps' examples keeps."""
    objective: dict[str, float] = field(default_factory=dict)
    """What the objective carries from step to step."""
    guards: dict[str, Any] = field(default_factory=dict)

    def stepped(self, loss: float, tokens: int, computed: int, metrics: dict[str, float], seconds: float) -> None:
        """One more step is done."""
        self.step += 1
        self.tokens += tokens
        self.computed += computed
        self.stepping += seconds
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.last_loss = loss
        self.since.append(loss)
        self.since_tokens += tokens
        self.since_seconds += seconds
        if metrics:
            self.metrics.append(metrics)

    def take_since(self) -> dict[str, Any]:
        """What the steps since the last such call came to; they are forgotten."""
        found = {
            "loss": sum(self.since) / len(self.since),
            "tokens": self.since_tokens,
            "tokens_per_s": round(self.since_tokens / self.since_seconds, 1),
            **_mean(self.metrics),
        }
        self.since, self.since_tokens, self.since_seconds, self.metrics = [], 0, 0.0, []
        return found

    def evaluated(self, loss: float, patience: int | None) -> bool:
        """The evaluation after this step gave `loss`. True if it is the best so far."""
        better = self.best_loss is None or loss < self.best_loss
        best = better or loss == self.best_loss  # of equals the newest: it has learnt for longest
        self.evaluation_loss = loss
        if best:
            self.best_loss, self.best_step = loss, self.step
        self.worse = 0 if better else self.worse + 1
        self.stopped = self.stopped or (patience is not None and self.worse >= patience)
        return best

    def result(self, evaluation: float | None, resumed_from: int | None) -> FitResult:
        """How the run went, with the evaluation loss of the weights it ends with."""
        return FitResult(
            steps=self.step,
            seconds=round(self.seconds, 3),
            tokens=self.tokens,
            tokens_per_s=round(self.tokens / self.stepping, 1) if self.stepping else 0.0,
            shared=round(1 - self.computed / max(self.tokens, 1), 4),
            peak_memory=self.peak_memory,
            first_loss=self.first_loss,
            last_loss=self.last_loss,
            evaluation_loss=evaluation,
            best_step=self.best_step,
            resumed_from=resumed_from,
            stopped_early=self.stopped,
        )


def _mean(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The numbers of several steps, each averaged over the steps that have it."""
    names = dict.fromkeys(name for step in steps for name in step)
    return {name: fmean(step[name] for step in steps if name in step) for name in names}
