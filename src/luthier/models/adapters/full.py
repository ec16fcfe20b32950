"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.models.adapters import Adapter

if TYPE_CHECKING:
    from luthier.types import Encoded


@dataclass(frozen=True)
class Full(Adapter):
    """Train every weight of the model. It needs about 8 times the memory of LoRA and forgets more."""

    default_lr: ClassVar[float] = 2e-5
    kind: ClassVar[Literal["base", "peft", "own"]] = "base"
    alone: ClassVar[bool] = True

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Nothing to do: a loaded model's weights all train."""
        return module
