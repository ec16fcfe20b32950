"""How far a run is, and how it went."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    judged: list[dict[str, float]] = field(default_factory=list)
    """What those steps showed of the rows' worth."""
    objective: dict[str, float] = field(default_factory=dict)
    """What the objective carries from step to step."""
    guards: dict[str, Any] = field(default_factory=dict)
