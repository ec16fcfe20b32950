"""What memory and time of a run hang on besides its rows: the model's sizes, what trains of it, types, and the path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.advisor.trains import Trains
from luthier.models.adapters.kit.shape import Shape

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
QUANTISED = {"nf4": 0.52, "int8": 1.01}
"""Bytes of each number of the blocks' matrices in few bits, their scales included: nf4 with its scales in 8 bits, too,
int8 with one scale for each row."""
STATES = {"adamw": 8.0, "adamw_paged": 8.0, "adamw_8bit": 2.0, "muon": 8.0, "adafactor": 0.1}
"""Bytes of an optimiser's state for each number that trains."""
Reference = Literal["none", "off", "kept", "copy", "second"]
"""Where a reference's log-probabilities come from: nowhere; the adapter switched off beside the policy; computed before
the first step and kept on disk; a copy of the weights; a second model."""


@dataclass(frozen=True)
class Setup:
    """A run but for its rows."""

    shape: Shape
    trains: Trains
    dtype: str = "bf16"
    """Type of the weights in memory."""
    quantize: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    optimizer: str = "adamw"
    masters: bool = True
    checkpointing: bool = False
    fused: bool = True
    reference: Reference = "none"
    beside: int = 0
    """Bytes of the weights of further models."""
    vocabulary: bool = False
    """Whole distributions are read, not log-probabilities alone."""
    evaluated: float = 0.0
    """Passes over held-out tokens: how often times how many, for each token that trains."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the cache is to keep of a run."""

    @property
    def number(self) -> int:
        """Bytes of a number of an activation."""
        return BYTES[self.dtype]

    @property
    def blocks_fused(self) -> bool:
        """Do fused blocks compute it?"""
        return self.fused and self.trains.fused and self.quantize is None

    @property
    def path(self) -> str:
        """What runs of one speed have in common."""
        kind = "fused" if self.blocks_fused else "plain"
        return f"{self.device} {self.dtype} {self.quantize or ''} {kind}".replace("  ", " ")

    @property
    def weights(self) -> float:
        """Bytes of the model's weights, those of the adapters apart."""
        inside = self.shape.blocks * self.shape.matrices
        outside = self.shape.total - inside
        if self.quantize is None:
            return BYTES[self.dtype] * (inside + outside)
        return QUANTISED[self.quantize] * inside + BYTES[self.dtype] * outside

    @property
    def stepped(self) -> float:
        """Bytes of what is kept of all that trains: masters or the numbers themselves, and the optimiser's state."""
        master = 4 if self.masters and BYTES[self.dtype] < 4 else 0
        return (4 * self.trains.added + master * self.trains.own) + self.state

    @property
    def state(self) -> float:
        """Bytes of the optimiser's state."""
        return STATES[self.optimizer] * self.trains.numbers
