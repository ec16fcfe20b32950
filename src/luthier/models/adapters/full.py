"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Full:
    """Train every weight of the model. It needs about 8 times the memory of LoRA and forgets more."""

    default_lr: ClassVar[float] = 2e-5
    adds_weights: ClassVar[bool] = False
    exact_start: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True
    alone: ClassVar[bool] = True

    def attach(self, module: PreTrainedModel) -> PreTrainedModel:
        """Nothing to do: a loaded model's weights all train."""
        return module
